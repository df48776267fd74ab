"""A shared trunk by itself: nobody takes a step before all have given theirs, or it is past."""

import asyncio

import pytest
import torch

import broker
import topologies
from atlas.roles.trunk import Trunk
from broker import Node

ALONE = """
name: alone
nodes: {host: {role: host, device: mini-pc}}
links: []
"""


def gradients(value: float) -> dict[str, torch.Tensor]:
    return {"layers.0.lora_A.weight": torch.full((2, 2), value)}


def run(program: broker.Program) -> object:
    network = topologies.parse(ALONE)
    return broker.run({"host": program}, topology=network).returned["host"]


def test_all_take_the_mean_of_all_whoever_comes_first() -> None:
    async def main(node: Node) -> list[float]:
        trunk = Trunk(node, "trunk", 0, ["a", "b"])
        late = asyncio.get_running_loop().create_task(trunk.step(0, "b", gradients(3.0)))
        taken = [await trunk.step(0, "a", gradients(1.0)), await late]
        return [float(step["layers.0.lora_A.weight"][0, 0]) for step in taken]

    assert run(main) == [2.0, 2.0]


def test_a_step_waits_for_those_who_share_it() -> None:
    async def main(node: Node) -> None:
        async with asyncio.timeout(100):
            await Trunk(node, "trunk", 0, ["a", "b"]).step(0, "a", gradients(1.0))

    with pytest.raises(broker.ProgramError, match="TimeoutError"):
        run(main)


def test_a_step_that_is_past_is_known_after_a_crash_and_of_another_round_it_is_not() -> None:
    async def main(node: Node) -> list[object]:
        before = Trunk(node, "trunk", 4, ["a", "b"])
        await asyncio.gather(
            before.step(0, "a", gradients(1.0)), before.step(0, "b", gradients(3.0))
        )
        again = await Trunk(node, "trunk", 4, ["a", "b"]).step(0, "a", gradients(7.0))
        later = Trunk(node, "trunk", 5, ["a", "b"])
        try:
            async with asyncio.timeout(100):
                await later.step(0, "a", gradients(1.0))
        except TimeoutError:
            return [float(again["layers.0.lora_A.weight"][0, 0]), "waited"]
        return ["did not wait"]

    assert run(main) == [2.0, "waited"]
