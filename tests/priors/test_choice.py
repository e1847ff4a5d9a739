"""Which prior a name stands for: what is here, what is downloaded when asked for, and what offline users read."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from filelock import FileLock
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.priors import Memory, SamplerOverrides, load_prior
from guidedvd_ns.priors.choice import BUNDLED, find_prior, viewcrafter_folder
from tests.scenes import write_prior

GIB = 2**30
OFFLINE = "Cannot find the requested files in the disk cache. To enable downloads, go online."


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no network: a download that a test does not expect fails it."""
    monkeypatch.setenv("GUIDEDVD_CACHE", str(tmp_path / "cache"))
    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, _refuse)
    return tmp_path / "cache"


def _refuse(*given, **options):
    raise AssertionError(f"unexpected download of {given}")


def _offline(*given, **options):
    raise huggingface_hub.errors.LocalEntryNotFoundError(OFFLINE)


def _on_gpu(monkeypatch, free: float, reserved: float = 0.0) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), 141 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(reserved * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)


def _convert(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")


def _said(name: str, device: str, memory: Memory = "default") -> tuple[Path, str]:
    with CONSOLE.capture() as printed:
        folder = find_prior(name, device, memory)
    return folder, " ".join(part for part in printed.get().split() if ".py:" not in part)


def test_auto_takes_viewcrafter_where_it_is_converted_and_has_room(monkeypatch):
    _convert(viewcrafter_folder())
    _on_gpu(monkeypatch, free=20.0, reserved=5.5)
    folder, line = _said("auto", "cuda")
    assert folder == viewcrafter_folder()
    assert "Prior: ViewCrafter, because" in line and "25.5 GiB of GPU memory are free (it needs 23)." in line


def test_auto_without_room_names_the_setting_that_needs_less(monkeypatch):
    _convert(viewcrafter_folder())
    _on_gpu(monkeypatch, free=15.5)
    folder, line = _said("auto", "cuda")
    assert folder == BUNDLED and "--pipeline.datamanager.memory low" in line
    assert "because 15.5 GiB of GPU memory are free and ViewCrafter needs 23, or 10 with" in line
    assert _said("auto", "cuda", "low")[0] == viewcrafter_folder()
    _on_gpu(monkeypatch, free=9.0)
    folder, line = _said("auto", "cuda", "low")
    assert folder == BUNDLED and line.endswith("ViewCrafter needs 10.")


def test_auto_never_downloads(monkeypatch):
    _on_gpu(monkeypatch, free=100.0)
    folder, line = _said("auto", "cuda")
    assert folder == BUNDLED and "holds no converted ViewCrafter" in line and ".prior viewcrafter downloads it" in line


def test_auto_without_cuda_is_the_bundled_prior(monkeypatch):
    _convert(viewcrafter_folder())
    folder, line = _said("auto", "cpu")
    assert folder == BUNDLED and line.endswith("Prior: the bundled one, because ViewCrafter needs a CUDA device.")


def test_viewcrafter_is_downloaded_and_converted_at_first_use_only(cache, tmp_path, monkeypatch):
    calls = []

    def convert_checkpoint(checkpoint: Path, folder: Path) -> None:
        calls.append(("convert", checkpoint.name, folder))
        _convert(folder)

    def download(*given):
        calls.append(given)
        return str(tmp_path / given[-1])

    module = "guidedvd_ns.priors.viewcrafter.convert"
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(convert_checkpoint=convert_checkpoint))  # type: ignore
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for name in ("viewcrafter", "viewcrafter", "Drexubery/ViewCrafter_25"):
        assert find_prior(name, "cpu") == cache / "viewcrafter"
    assert calls == [
        ("Drexubery/ViewCrafter_25", "model.ckpt"),
        ("convert", "model.ckpt", cache / "viewcrafter"),
    ]


def test_of_two_that_want_viewcrafter_one_fetches_it_and_the_other_waits(cache):
    cache.mkdir()
    at_work = threading.Event()

    def first() -> None:
        with FileLock(cache / "viewcrafter.lock"):
            at_work.set()
            time.sleep(0.3)
            _convert(viewcrafter_folder())

    thread = threading.Thread(target=first)
    thread.start()
    at_work.wait()
    folder, line = _said("viewcrafter", "cpu")  # a download would fail this test
    thread.join()
    assert folder == viewcrafter_folder() and "another process is putting ViewCrafter into" in line


def test_a_cache_that_cannot_be_written_to_is_told_before_the_download(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GUIDEDVD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        OSError, match=r"cannot be kept in .*file.cache \(Not a directory\): name another.*GUIDEDVD_CACHE"
    ):
        find_prior("viewcrafter", "cpu")


def test_something_else_in_the_place_of_viewcrafter_is_told_before_the_download():
    viewcrafter_folder().mkdir(parents=True)
    (viewcrafter_folder() / "model.ckpt").touch()
    with pytest.raises(FileExistsError, match="viewcrafter exists but holds no converted ViewCrafter: move it away"):
        find_prior("viewcrafter", "cpu")


def test_a_failed_download_lets_the_next_process_try(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _offline)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="could not be downloaded"):
            find_prior("viewcrafter", "cpu")


def test_the_original_checkpoint_in_the_place_of_a_folder_is_told_how_to_convert(tmp_path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(FileNotFoundError, match="model.ckpt is a file.*`gvd-convert-viewcrafter .*model.ckpt OUT`"):
        find_prior(tmp_path / "model.ckpt", "cpu")


def test_viewcrafter_offline_says_what_to_download_where_to_put_it_and_what_to_run(cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _offline)
    with pytest.raises(FileNotFoundError) as failure:
        load_prior("viewcrafter", "cpu")
    assert str(failure.value) == (
        "ViewCrafter is not on this machine and could not be downloaded (Cannot find the requested files in the disk"
        " cache): fetch https://huggingface.co/Drexubery/ViewCrafter_25/resolve/main/model.ckpt (10.4 GB) elsewhere,"
        f" copy it here, and run `gvd-convert-viewcrafter model.ckpt {cache / 'viewcrafter'}`."
    )


def test_a_prior_on_the_hub_is_fetched_without_anything_that_could_be_unpickled(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *given: asked.append(given))

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        assert repository == "somebody/viewcrafter-bf16" and set(allow_patterns) == {"*.json", "*.safetensors"}
        return str(write_prior(tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    prior = load_prior("somebody/viewcrafter-bf16", "cpu", memory="low")
    assert prior.settings.num_frames == 4 and prior.memory == "low"
    assert asked == [("somebody/viewcrafter-bf16", "model_index.json")]


def test_settings_that_the_network_cannot_follow_are_refused(tmp_path):
    prior = load_prior(write_prior(tmp_path / "tiny"), "cpu")
    prior.override(SamplerOverrides(num_steps=9))
    assert prior.settings.num_steps == 9 and prior.settings.num_frames == 4
    with pytest.raises(ValueError, match="`cfg_scale` is 3"):
        prior.override(SamplerOverrides(cfg_scale=3.0))


def test_a_prior_on_the_hub_that_cannot_be_had_is_one_sentence(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _offline)
    with pytest.raises(FileNotFoundError, match=r"no folder 'some/body', and no prior.*\(Cannot find.*cache\): check"):
        load_prior("some/body", "cpu")


@pytest.mark.parametrize("name", ["viewcraftr", "./some/body", "a/b/c", "~/nowhere", "../up"])
def test_what_cannot_be_on_the_hub_is_not_looked_for_there(name):
    with pytest.raises(FileNotFoundError, match=f"no prior '{name}': give auto, bundled, viewcrafter, a folder"):
        find_prior(name, "cpu")


def test_a_folder_is_taken_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "body").mkdir(parents=True)
    assert find_prior("some/body", "cpu") == Path("some/body")


def test_an_error_without_words_is_named_by_its_kind(monkeypatch):
    def fail(*given):
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(FileNotFoundError, match=r"downloaded \(TimeoutError\)"):
        find_prior("viewcrafter", "cpu")


def test_the_cache_follows_the_users_variables(tmp_path, monkeypatch):
    monkeypatch.delenv("GUIDEDVD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert viewcrafter_folder() == tmp_path / "guidedvd-ns" / "viewcrafter"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert viewcrafter_folder() == Path.home() / ".cache" / "guidedvd-ns" / "viewcrafter"
