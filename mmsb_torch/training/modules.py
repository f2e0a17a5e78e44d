"""A module's parameters and buffers, by name, and the state that it keeps beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mmsb_torch.training.part import Find, Look, copy_into, differences
from mmsb_torch.training.tree import Keep, decode, encode

_EXTRA = nn.Module.get_extra_state


class ModulePart:
    """A module: a page for each parameter and buffer, one for those that have several names."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, unwrapped(module)
        self._bound: list[tuple[dict[str, Any], str, Any]] = []
        self._sizes: list[tuple[dict[str, Any], int]] = []
        self.tensors: dict[str, Tensor] = {}
        """Key -> parameter or buffer."""
        self._told: Any = None
        self._stateful: list[tuple[str, nn.Module]] = []
        self._bind()

    def look(self, keep: Keep) -> Any:
        """As `Part` says."""
        if self._moved():
            self._bind()
        for key, tensor in self.tensors.items():
            keep(key, tensor, fixed=True)
        if not self._stateful:
            return self._told
        extra = {
            name: encode(module.get_extra_state(), f"{self.name}/{name}._extra_state", keep)
            for name, module in self._stateful
        }
        return {**self._told, "extra": extra}

    def compare(self, saved: Any, spec: Look) -> list[str]:
        """As `Part` says: parameters and buffers that are missing, too many, or different."""
        self._bind()
        kept, here = saved["names"], self._told["names"]
        found = [
            f"{self.name}: {name!r} was kept by the run, and is not in the module"
            for name in kept.keys() - here.keys()
        ] + [
            f"{self.name}: {name!r} is in the module, and was not kept by the run"
            for name in here.keys() - kept.keys()
        ]
        for name in here.keys() & kept.keys():
            tensor = self.tensors[here[name]]
            found += differences(f"{self.name}: {name!r}", tensor, spec(kept[name]))
        for tied in _ties(kept) ^ _ties(here):
            if tied <= kept.keys() & here.keys():
                whose = "the run" if tied in _ties(kept) else "the module"
                found.append(f"{self.name}: {sorted(tied)} are one tensor in {whose} only")
        extra = {name for name, _ in self._stateful}
        for name in sorted(extra ^ saved.get("extra", {}).keys()):
            whose = "not in the module" if name not in extra else "not kept by the run"
            found.append(f"{self.name}: the extra state of {name!r} is {whose}")
        return sorted(found)

    def load(self, saved: Any, find: Find) -> None:
        """As `Part` says: in place, each tensor once."""
        here = self._told["names"]
        values = {here[name]: key for name, key in saved["names"].items()}
        for key, tensor in self.tensors.items():
            copy_into(tensor, find(values[key]))
        for name, module in self._stateful:
            module.set_extra_state(decode(saved["extra"][name], find))

    def names(self) -> Iterator[tuple[str, str]]:
        """The names of the state that `module.state_dict()` would have, with their keys."""
        return ((name, self._told["names"][name]) for name in self._told["persistent"])

    def _bind(self) -> None:
        """Find all parameters and buffers, and remember where they were found."""
        self._bound, self._sizes, self._stateful = [], [], []
        names: dict[str, str] = {}
        keys: dict[int, str] = {}
        persistent, tensors = [], {}
        for prefix, module in self.module.named_modules(remove_duplicate=False):
            places = (module._parameters, module._buffers)  # noqa: SLF001 - modules have no other door
            for place in (*places, module._modules):  # noqa: SLF001
                self._sizes.append((place, len(place)))
                self._bound += [(place, name, found) for name, found in place.items()]
            for place in places:
                for name, tensor in place.items():
                    if tensor is None:
                        continue
                    path = plain_name(f"{prefix}.{name}" if prefix else name)
                    key = keys.setdefault(id(tensor), f"{self.name}/{path}")
                    names[path], tensors[key] = key, tensor
                    if name not in module._non_persistent_buffers_set:  # noqa: SLF001
                        persistent.append(path)
            if type(module).get_extra_state is not _EXTRA:
                self._stateful.append((plain_name(prefix), module))
        self.tensors = tensors
        self._told = {"names": names, "persistent": persistent}

    def _moved(self) -> bool:
        """Whether a parameter, buffer or submodule was replaced, added or taken away."""
        return any(place.get(name) is not found for place, name, found in self._bound) or any(
            len(place) != size for place, size in self._sizes
        )


def _ties(names: dict[str, str]) -> set[frozenset[str]]:
    """The names of each tensor that has several."""
    tied: dict[str, set[str]] = {}
    for name, key in names.items():
        tied.setdefault(key, set()).add(name)
    return {frozenset(each) for each in tied.values() if len(each) > 1}


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of what distributes it."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(module.module)
    return module


def plain_name(name: str) -> str:
    """A parameter's name without what `torch.compile` puts into it."""
    return name.replace("_orig_mod.", "").removesuffix("_orig_mod")
