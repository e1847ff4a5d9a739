"""What is to be run: scenes and methods as a user writes them, and the list of runs that they make."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig

GUIDE = "guide"
"""The run that fits a scene's guide; every other run of the scene needs it."""
SPLATFACTO = "splatfacto"
GUIDED = "guidedvd-splat"
REFERENCE = "guidedvd-splat-reference"
BASES = (SPLATFACTO, GUIDE, GUIDED, REFERENCE)

ABLATIONS: dict[str, str] = {
    "no-generation": "--pipeline.generate False",
    "no-guidance": "--pipeline.datamanager.guidance False",
    "random-trajectories": "--pipeline.datamanager.trajectories.strategy random",
    "no-perceptual": "--pipeline.model.perceptual none",
    "no-local-sampling": "--pipeline.datamanager.local-sampling False",
    "telea": "--pipeline.datamanager.prior telea",
    "navier-stokes": "--pipeline.datamanager.prior navier-stokes",
}
"""Name -> the switches of `ns-train guidedvd-splat` that make it."""


@dataclass(frozen=True)
class Job:
    """One training with its evaluation; everything that its result depends on."""

    scene: str
    """Name of the scene, and of its folder."""
    data: str
    """The scene as the user wrote it."""
    method: str
    """Name of the method, and of the run's folder in the scene's."""
    base: str
    """What is trained, one of `BASES`."""
    switches: str
    """Options of `ns-train` that make the method of its base."""
    steps: int
    """Length of the whole, the guide's steps included."""
    seed: int
    hole_threshold: float
    max_image_side: int
    shares_guide: bool
    """Whether the scene's guide is handed to the run, which then only trains the second phase."""
    device: str
    """cuda or cpu."""

    @property
    def name(self) -> str:
        return f"{self.scene}/{self.method}"

    def record(self) -> dict[str, Any]:
        """As it stands in a result."""
        return asdict(self)


def parse_method(text: str) -> tuple[str, str, str]:
    """Name, base and switches of a method: a base, an ablation, `sd-inpaint:MODEL`, or `NAME=[BASE] SWITCHES`.

    Raises:
        ValueError: where it is none of these.
    """
    if text in BASES:
        return text, text, ""
    if text in ABLATIONS:
        return text, GUIDED, ABLATIONS[text]
    if text.startswith("sd-inpaint:"):
        return "sd-inpaint", GUIDED, f"--pipeline.datamanager.prior {shlex.quote(text)}"
    name, equals, rest = text.partition("=")
    if not equals or not re.fullmatch(r"\w[\w.-]*", name) or name in (*BASES, *ABLATIONS):
        raise ValueError(
            f"There is no method '{text}': choose among {', '.join((*BASES, *ABLATIONS))}, or give sd-inpaint:MODEL,"
            " or a name of your own with switches, as in 'strong=--pipeline.datamanager.sampler.guidance-factor 0.1'."
        )
    first, _, others = rest.strip().partition(" ")
    base, switches = (first, others.strip()) if first in BASES else (GUIDED, rest.strip())
    return name, base, switches


def parse_scene(text: str) -> tuple[str, DataParserConfig]:
    """Name and dataparser of a scene: a folder, `DATAPARSER:FOLDER` or `DATAPARSER:SEED`, then dataparser options.

    `lounge`, `guidedvd-rooms:3 --width 640 --height 480`, `guidedvd-scannetpp:data/8a20d62ac0 --views official`.

    Raises:
        ValueError: there is no such dataparser.
        FileNotFoundError: there is no such folder.
    """
    import tyro
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    where, *options = shlex.split(text)
    kind, colon, rest = where.partition(":")
    if not colon:
        kind, rest = "guidedvd-data", where
    if kind not in all_dataparsers:
        ours = ", ".join(sorted(name for name in all_dataparsers if name.startswith("guidedvd-")))
        raise ValueError(f"There is no dataparser '{kind}' of the scene '{text}': the project's own are {ours}.")
    default = all_dataparsers[kind]
    if re.fullmatch(r"\d+", rest) and hasattr(default, "room_seed"):
        options = ["--room-seed", rest, *options]
        name = f"room-{rest}"
    elif not Path(rest).expanduser().exists():
        raise FileNotFoundError(f"There is no scene at {Path(rest).expanduser()} ('{text}').")
    else:
        path = Path(rest).expanduser().resolve()
        options = ["--data", str(path), *options]
        name = path.parent.name if path.is_file() else path.name
    given = [option.lstrip("-") for option in shlex.split(text)[1:]]
    if given:
        name += "-" + re.sub(r"[^\w.-]+", "-", "-".join(given))[:40]
    return name, tyro.cli(type(default), prog=f"scene {where}", default=default, args=options)


def plan_jobs(
    scenes: Iterable[str],
    methods: Iterable[str],
    *,
    options: str,
    share_guide: bool,
    **settings: Any,
) -> list[Job]:
    """All runs, each scene's guide before what needs it; `options` are switches of every run but splatfacto's.

    Raises:
        ValueError: a scene or a method is not understood, or two have the same name.
        FileNotFoundError: a scene is not there.
    """
    parsed = [parse_method(text) for text in dict.fromkeys(methods)]
    names = [name for name, _, _ in parsed]
    _refuse_twins("methods", names)
    if GUIDE not in names:
        parsed.insert(0, (GUIDE, GUIDE, ""))
    located = [(text, parse_scene(text)[0]) for text in dict.fromkeys(scenes)]
    _refuse_twins("scenes", [name for _, name in located])
    # The reference fits its guide by other settings, so that it cannot take the scene's.
    return [
        Job(
            scene=scene,
            data=text,
            method=name,
            base=base,
            switches="" if base == SPLATFACTO else f"{options} {switches}".strip(),
            shares_guide=share_guide and base == GUIDED,
            **settings,
        )
        for name, base, switches in sorted(parsed, key=lambda method: _rank(method[1]))
        for text, scene in located
    ]


def _rank(base: str) -> int:
    """What others wait for first, then what takes long, so that the machine is busy to the end."""
    return {GUIDE: 0, REFERENCE: 1, GUIDED: 2, SPLATFACTO: 3}[base]


def _refuse_twins(what: str, names: list[str]) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(f"Two of the {what} would be called '{twins[0]}': leave one out, or rename its folder.")
