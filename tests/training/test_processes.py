"""Two processes on the CPU that train together: equal weights, averaged gradients, one clock, a resume to the bit."""

import socket
from pathlib import Path

import pytest
import torch
from stages import diffusion_stage
from together import COUNT, CPU, run, small_batch, train_small_network
from torch import multiprocessing

from guidedvd_ns.training.loop import Budget, Session, train_stage
from guidedvd_ns.training.processes import ConnectedProcesses, Processes, join_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(run, (folder, port), nprocs=COUNT)
    return folder


@pytest.fixture(scope="module")
def found(folder) -> list[dict]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(COUNT)]


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_main_process_decides_and_hears_the_others(found):
    assert [each["device"] for each in found] == ["cpu", "cpu"]
    assert [each["agreed"] for each in found] == [10.0, 10.0]
    assert [each["gathered"] for each in found] == [[0, 1], []]


def test_two_halves_of_a_batch_train_as_the_whole_batch_does(found):
    expected = train_small_network(small_batch(), Processes())
    for each in found:
        for name, value in each["small network"].items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("what", ["small network", "whole", "average", "timed", "vae"])
def test_weights_stay_equal_to_the_bit(found, what):
    assert _equal(found[0][what], found[1][what])


def test_each_process_trains_on_its_own_clips(found, tmp_path):
    assert found[0]["clips"] == [0, 2, 4] and found[1]["clips"] == [1, 3, 5]
    alone = diffusion_stage(processes=Processes())
    train_stage(alone, Budget(steps=5), Session(tmp_path, CPU))
    assert not _equal(alone.unet.state_dict(), found[0]["whole"])


def test_a_resumed_training_equals_an_uninterrupted_one(found):
    for each in found:
        assert _equal(each["resumed"], each["whole"])


def test_a_bad_gradient_of_one_process_is_skipped_by_all(found):
    assert [each["skipped"] for each in found] == [True, True]


def test_clips_come_at_the_same_steps_where_time_is_measured(found):
    assert found[0]["refresh_every"] == found[1]["refresh_every"]


def test_only_the_main_process_writes(folder):
    for name in ("whole", "timed", "vae"):
        assert len(list((folder / name).glob("*.ckpt"))) == 1
        assert len(list((folder / name / "tensorboard").iterdir())) == 1


def test_a_checkpoint_of_two_processes_is_refused_by_one(folder):
    with pytest.raises(ValueError, match="written by 2 processes, but 1"):
        train_stage(diffusion_stage(processes=Processes()), Budget(steps=5), Session(folder / "whole", CPU))


def test_one_process_alone_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes, device = join_processes("cpu")
    assert (processes.rank, processes.count, device) == (0, 1, CPU)
    assert processes.agree(2.5) == 2.5 and processes.gather("own") == ["own"]
    assert processes.generator("cpu", 5).initial_seed() == 5
    with pytest.raises(RuntimeError, match="accelerate launch"):
        ConnectedProcesses()


@pytest.mark.parametrize(("device", "expected"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_the_gpu_that_is_asked_for_becomes_the_current_one(device, expected, monkeypatch):
    chosen: list[str] = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    assert join_processes(device)[1] == torch.device(device)
    assert chosen == expected
