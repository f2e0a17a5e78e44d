"""An optimizer's slots and groups, by the names that its parameters have in the models."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmsb_torch.errors import UnsupportedError
from mmsb_torch.training.part import Find, Look, copy_into, differences
from mmsb_torch.training.tree import Keep, decode, encode


class Parameters:
    """The parameters of an optimizer, and their names.

    Args:
        optimizer: whose.
        known: parameter -> name, of the models; others are `#0`, `#1`, ... in the optimizer's order.
    """

    def __init__(self, optimizer: Optimizer, known: Mapping[int, str]) -> None:
        self.optimizer, self.known = optimizer, known

    def groups(self) -> list[list[tuple[str, Tensor]]]:
        """Names and parameters, by group."""
        found, number = [], 0
        for group in self.optimizer.param_groups:
            named = []
            for parameter in group["params"]:
                named.append((self.known.get(id(parameter), f"#{number}"), parameter))
                number += 1
            found.append(named)
        return found

    def each(self) -> Iterator[tuple[str, Tensor]]:
        """Names and parameters, in the optimizer's order."""
        return (pair for group in self.groups() for pair in group)


class OptimizerPart:
    """An optimizer: a page for each slot of each parameter.

    Slots that are one number for each parameter (the step count of most optimizers) share a page, a
    row for each parameter. Parameters that are in no tracked model are kept here.
    """

    def __init__(self, name: str, optimizer: Optimizer, known: Mapping[int, str]) -> None:
        self.name, self.optimizer = name, optimizer
        self._parameters = Parameters(optimizer, known)

    def look(self, keep: Keep) -> Any:
        """As `Part` says."""
        groups, own, slots = [], [], {}
        numbers: dict[tuple[str, torch.dtype, str], list[tuple[str, Tensor]]] = {}
        for at, named in enumerate(self._parameters.groups()):
            options = {
                key: encode(value, f"{self.name}/group{at}/{key}", keep)
                for key, value in self.optimizer.param_groups[at].items()
                if key != "params"
            }
            groups.append({"params": [name for name, _ in named], "options": options})
            for name, parameter in named:
                if name.startswith("#"):
                    keep(f"{self.name}/{name}", parameter, fixed=True)
                    own.append(name)
                state = self.optimizer.state.get(parameter)
                if state:
                    slots[name] = self._slots(name, parameter, state, numbers, keep)
        return {
            "kind": type(self.optimizer).__qualname__,
            "groups": groups,
            "own": own,
            "slots": slots,
            "numbers": [self._numbers(*item, keep) for item in numbers.items()],
        }

    def _slots(
        self,
        name: str,
        parameter: Tensor,
        state: Mapping[str, Any],
        numbers: dict[tuple[str, torch.dtype, str], list[tuple[str, Tensor]]],
        keep: Keep,
    ) -> dict[str, Any]:
        slots: dict[str, Any] = {}
        for slot, value in state.items():
            key = f"{self.name}/{name}/{slot}"
            if type(value) is not Tensor:
                slots[slot] = encode(value, key, keep)
                continue
            where = "param" if value.device == parameter.device else "cpu"
            if value.dim() == 0:
                numbers.setdefault((slot, value.dtype, where), []).append((name, value))
                slots[slot] = {"$": "number of each"}  # its place among the others
                continue
            keep(key, value)
            slots[slot] = {"$": "tensor", "is": key, "on": where}
        return slots

    def _numbers(
        self, kind: tuple[str, torch.dtype, str], found: list[tuple[str, Tensor]], keep: Keep
    ) -> dict[str, Any]:
        slot, dtype, where = kind
        key = f"{self.name}/{slot}" if slot == "step" else f"{self.name}/{slot}.{dtype}.{where}"
        keep(key, torch.stack([value for _, value in found]), ours=True)
        return {"slot": slot, "is": key, "on": where, "params": [name for name, _ in found]}

    def compare(self, saved: Any, spec: Look) -> list[str]:
        """As `Part` says: its kind, its groups, and the parameters in each."""
        kind, groups = type(self.optimizer).__qualname__, self._parameters.groups()
        if kind != saved["kind"]:
            return [f"{self.name}: the run kept a {saved['kind']}, found a {kind}"]
        if len(groups) != len(saved["groups"]):
            return [
                f"{self.name}: the run kept {len(saved['groups'])} parameter groups, found {len(groups)}"
            ]
        found = []
        for at, (named, kept) in enumerate(zip(groups, saved["groups"], strict=True)):
            here = [name for name, _ in named]
            if here == kept["params"]:
                continue
            missing = [name for name in kept["params"] if name not in here]
            more = [name for name in here if name not in kept["params"]]
            what = ", ".join(
                [f"{name!r} is missing" for name in missing] + [f"{name!r} is new" for name in more]
                or ["the same parameters in another order"]
            )
            found.append(f"{self.name}: group {at}: {what}")
        for name, parameter in self._parameters.each():
            if name in saved["own"]:
                found += differences(f"{self.name}: {name}", parameter, spec(f"{self.name}/{name}"))
        return found

    def load(self, saved: Any, find: Find) -> None:
        """As `Part` says: slots that are there in place, others are made, the rest go."""
        for group, kept in zip(self.optimizer.param_groups, saved["groups"], strict=True):
            for key, option in kept["options"].items():
                value = decode(option, find)
                if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
                    copy_into(group[key], value)
                else:
                    group[key] = value
        numbers = _spread(saved["numbers"], find)
        for name, parameter in self._parameters.each():
            if name in saved["own"]:
                copy_into(parameter, find(f"{self.name}/{name}"))
            slots = {**saved["slots"].get(name, {}), **numbers.get(name, {})}
            if not slots:
                self.optimizer.state.pop(parameter, None)
                continue
            state = self.optimizer.state[parameter]
            fresh = {
                slot: _placed(tree, parameter, state.get(slot), find)
                for slot, tree in slots.items()
            }
            state.clear()
            state.update(fresh)


def _spread(kept: list[Any], find: Find) -> dict[str, dict[str, Any]]:
    """The slots that shared a page, by parameter: pairs of where and what."""
    slots: dict[str, dict[str, Any]] = {}
    for numbers in kept:
        for name, value in zip(numbers["params"], find(numbers["is"]).unbind(), strict=True):
            slots.setdefault(name, {})[numbers["slot"]] = (numbers["on"], value)
    return slots


def _placed(tree: Any, parameter: Tensor, present: Any, find: Find) -> Any:
    """The value of a slot, in the tensor that is there if it is of its kind."""
    if isinstance(tree, tuple):
        where, value = tree
    elif isinstance(tree, dict) and tree.get("$") == "tensor" and tree["on"] in ("param", "cpu"):
        where, value = tree["on"], find(tree["is"])
    else:
        return decode(tree, find)
    device = parameter.device if where == "param" else torch.device("cpu")
    alike = type(present) is Tensor and (present.dtype, present.shape, present.device) == (
        value.dtype,
        value.shape,
        device,
    )
    if not alike and value.shape == parameter.shape:  # laid out as an optimizer does
        present, alike = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False), True
        present = present.to(device)
    if not alike:
        return value.clone().to(device)
    copy_into(present, value)
    return present


class GradientPart:
    """Gradients that no step has used yet: of a commit between two backward passes of one step."""

    def __init__(self, name: str, optimizer: Optimizer, known: Mapping[int, str]) -> None:
        self.name = name
        self._parameters = Parameters(optimizer, known)
        self._used: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._hook = optimizer.register_step_post_hook(_note(weakref.ref(self)))

    def note_step(self) -> None:
        """The optimizer made a step: what the gradients hold now has been used."""
        self._used = {
            id(parameter): (weakref.ref(parameter.grad), parameter.grad._version)  # noqa: SLF001 - no public name
            for _, parameter in self._parameters.each()
            if parameter.grad is not None
        }

    def _is_used(self, parameter: Tensor, grad: Tensor) -> bool:
        used = self._used.get(id(parameter))
        return used is not None and used[0]() is grad and used[1] == grad._version  # noqa: SLF001

    def look(self, keep: Keep) -> Any:
        """As `Part` says."""
        names = []
        for name, parameter in self._parameters.each():
            grad = parameter.grad
            if grad is not None and not self._is_used(parameter, grad):
                if grad.layout is not torch.strided:
                    raise UnsupportedError(
                        f"the sparse gradient of {name!r}, which no step has used, cannot be kept: "
                        "commit after optimizer.step()"
                    )
                keep(f"{self.name}/{name}", grad)
                names.append(name)
        return names

    def compare(self, saved: Any, spec: Look) -> list[str]:
        """As `Part` says; the optimizer's part compares the parameters."""
        del saved, spec
        return []

    def load(self, saved: Any, find: Find) -> None:
        """As `Part` says: in place where a gradient is there."""
        for name, parameter in self._parameters.each():
            if name not in saved:
                parameter.grad = None
            elif parameter.grad is not None and parameter.grad.layout is torch.strided:
                copy_into(parameter.grad, find(f"{self.name}/{name}"))
            else:
                grad = torch.empty_like(parameter, requires_grad=False)
                grad.copy_(find(f"{self.name}/{name}"))
                parameter.grad = grad


def _note(part: weakref.ref[GradientPart]) -> Any:
    """A hook that does not keep the part alive."""

    def hook(*_: object) -> None:
        found = part()
        if found is not None:
            found.note_step()

    return hook
