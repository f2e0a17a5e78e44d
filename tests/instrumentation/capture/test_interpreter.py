"""The recording interpreter computes what the graph does, and says what each node did."""

import torch
from torch import nn

from mmsb_torch.instrumentation.capture.export import capture
from mmsb_torch.instrumentation.capture.interpreter import MMSBInterpreter


def test_it_computes_what_the_graph_does(program, equal):
    function, args = program
    ir = capture(function, *args).ir
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(leaf)]
    if isinstance(args[0], dict):
        leaves = [args[0]["x"], args[0]["y"][0]]
    interpreter = MMSBInterpreter(ir)
    with torch.no_grad():
        torch.manual_seed(1)
        found = interpreter.run(*leaves)
        torch.manual_seed(1)
        assert equal(found, ir.run(leaves))
    assert len(interpreter.steps) == len(ir.nodes)


def test_steps_say_what_each_node_did():
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU()), nn.Linear(8, 2))
    interpreter = MMSBInterpreter(capture(model, torch.ones(3, 4)).ir)
    for _ in range(2):  # a run forgets the one before
        interpreter.run(torch.ones(3, 4))
    steps = interpreter.steps
    assert [step.scope for step in steps] == ["0", "1.0", "2"]
    assert [step.shapes for step in steps] == [((3, 8),), ((3, 8),), ((3, 2),)]
    assert [step.nbytes for step in steps] == [96, 96, 24]
    assert [step.op for step in steps] == ["linear.default", "relu.default", "linear.default"]
    assert all(step.seconds > 0 for step in steps)
    assert len(interpreter.table(limit=2).splitlines()) == 2


def test_it_runs_exported_programs_too():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    module = torch.export.export(model, (torch.ones(3, 4),)).module()
    interpreter = MMSBInterpreter(module)
    found = interpreter.run(torch.ones(3, 4))
    assert torch.equal(found, model(torch.ones(3, 4)))
    assert {"0", "1"} <= {step.scope for step in interpreter.steps}
