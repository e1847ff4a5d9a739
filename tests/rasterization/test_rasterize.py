"""The rules of the CPU rasterizer on cases whose answer is known, and its behaviour at the edges."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from guidedvd_ns.rasterization import rasterize

from .scenes import cameras, random_gaussians

BLUR = 0.3


def on_axis(depths: list[float], opacities: list[float], scale: float = 0.5) -> dict[str, Tensor]:
    """Isotropic Gaussians on the optical axis of `camera`, each with a colour of its own."""
    count = len(depths)
    return {
        "means": torch.tensor([[0.0, 0.0, depth] for depth in depths]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        "scales": torch.full((count, 3), scale),
        "opacities": torch.tensor(opacities),
        "colors": torch.eye(4)[:count, :3] + 0.1,
    }


def camera(size: int = 33, focal: float = 20.0) -> dict[str, Tensor]:
    """A camera at the origin whose axis goes through the centre of the middle pixel of an image of odd size."""
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return {"viewmats": torch.eye(4)[None], "Ks": K[None]}


def test_one_gaussian_on_the_axis_has_the_closed_form() -> None:
    scale, depth, opacity, focal, size = 0.3, 2.0, 0.8, 20.0, 33
    gaussians = on_axis([depth], [opacity], scale)
    image, alpha, info = rasterize(**gaussians, **camera(size, focal), width=size, height=size, render_mode="RGB+ED")

    variance = (focal * scale / depth) ** 2 + BLUR
    offsets = torch.arange(size) - size // 2
    squared = (offsets[:, None] ** 2 + offsets[None, :] ** 2).float()
    expected = opacity * torch.exp(-squared / (2 * variance))
    expected = torch.where(expected >= 1 / 255, expected, 0)
    # The square of three standard deviations covers all nine tiles here, so the tiles cut nothing off.
    radius = math.ceil(3 * math.sqrt(variance + 0.1))
    assert info["radii"].item() == radius
    torch.testing.assert_close(alpha[0, ..., 0], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(image[0, ..., :3], expected[..., None] * gaussians["colors"][0], rtol=1e-4, atol=1e-6)
    hit = expected > 0
    torch.testing.assert_close(image[0, ..., 3][hit], torch.full((int(hit.sum()),), depth))
    assert (image[0, ..., 3][~hit] == 0).all()
    torch.testing.assert_close(info["means2d"][0, 0], torch.tensor([size / 2, size / 2]))


def test_antialiasing_keeps_the_energy_of_a_small_gaussian() -> None:
    """The opacity factor is sqrt(det(S) / det(S + blur))."""
    scale, depth, focal, size = 0.03, 2.0, 20.0, 33
    gaussians = on_axis([depth], [0.9], scale)
    middle = size // 2
    _, alpha, _ = rasterize(**gaussians, **camera(size, focal), width=size, height=size, rasterize_mode="antialiased")
    variance = (focal * scale / depth) ** 2
    assert alpha[0, middle, middle, 0].item() == pytest.approx(0.9 * variance / (variance + BLUR), rel=1e-4)


def test_a_pixel_closes_before_the_gaussian_that_would_take_its_last_light() -> None:
    """0.98 leaves 2e-2, twice leaves 4e-4, and the third would leave 8e-6: it and the faint one behind are left out."""
    gaussians = {k: v.requires_grad_() for k, v in on_axis([2.0, 3.0, 4.0, 5.0], [0.98, 0.98, 0.98, 0.3]).items()}
    image, alpha, _ = rasterize(**gaussians, **camera(), width=33, height=33)
    first, second = gaussians["colors"][:2].detach()
    middle = image[0, 16, 16]
    torch.testing.assert_close(middle.detach(), 0.98 * first + 0.02 * 0.98 * second)
    assert alpha[0, 16, 16, 0].item() == pytest.approx(1 - 4e-4, abs=1e-6)
    middle.sum().backward()
    assert gaussians["colors"].grad[2:].abs().max() == 0
    assert gaussians["opacities"].grad[2:].abs().max() == 0


def test_opacity_is_clamped_and_then_has_no_gradient() -> None:
    gaussians = {k: v.requires_grad_() for k, v in on_axis([2.0], [1.0]).items()}
    image, alpha, _ = rasterize(**gaussians, **camera(), width=33, height=33)
    assert alpha[0, 16, 16, 0].item() == pytest.approx(0.999)
    image[0, 16, 16].sum().backward()
    assert gaussians["opacities"].grad.item() == 0
    assert gaussians["colors"].grad.sum().item() == pytest.approx(3 * 0.999)


def test_order_is_by_depth_and_not_by_index() -> None:
    near_last = on_axis([5.0, 2.0], [0.9, 0.9])
    image, _, _ = rasterize(**near_last, **camera(), width=33, height=33)
    expected = 0.9 * near_last["colors"][1] + 0.1 * 0.9 * near_last["colors"][0]
    torch.testing.assert_close(image[0, 16, 16], expected)


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
def test_gradients_match_finite_differences(name: str) -> None:
    """Wide, faint Gaussians over a small image: no threshold is crossed, so the image is smooth in every parameter."""
    width, height = 16, 12
    means, quats, scales, _, colors = random_gaussians(6, seed=3, log_scale=0.3, num_bases=9)
    inputs = {
        "means": means * torch.tensor([0.2, 0.2, 1.0]),
        "quats": quats,
        "scales": scales.clamp(0.8, 2.0),
        "opacities": torch.linspace(0.3, 0.6, 6),
        "colors": colors,
    }
    viewmats, Ks = cameras(1, width, height)
    weights = torch.randn(1, height, width, 3)

    def loss(**changed: Tensor) -> Tensor:
        image, alpha, _ = rasterize(
            **(inputs | changed), viewmats=viewmats, Ks=Ks, width=width, height=height, sh_degree=2
        )
        return (image.double() * weights).sum() + alpha.double().sum()

    variable = inputs[name].clone().requires_grad_()
    loss(**{name: variable}).backward()
    direction = variable.grad.sign()
    step = 2e-3
    ahead, back = loss(**{name: inputs[name] + step * direction}), loss(**{name: inputs[name] - step * direction})
    assert ((ahead - back) / (2 * step)).item() == pytest.approx((variable.grad * direction).sum().item(), rel=5e-3)


def test_absgrad_bounds_the_gradient_of_the_centres() -> None:
    gaussians = [tensor.requires_grad_() for tensor in random_gaussians(60)]
    image, _, info = rasterize(*gaussians, *cameras(2, 40, 30), 40, 30, absgrad=True)
    (image * torch.randn(image.shape)).sum().backward()
    means2d = info["means2d"]
    assert means2d.absgrad.shape == means2d.grad.shape == (2, 60, 2)
    assert (means2d.absgrad >= means2d.grad.abs() - 1e-5).all()
    assert (means2d.absgrad > 1.5 * means2d.grad.abs()).any()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    def render() -> list[Tensor]:
        gaussians = [tensor.requires_grad_() for tensor in random_gaussians(200)]
        image, alpha, info = rasterize(*gaussians, *cameras(2, 96, 64), 96, 64, render_mode="RGB+ED")
        (image.square().sum() + alpha.sum()).backward()
        return [image.detach(), alpha.detach(), info["means2d"].grad, *(tensor.grad for tensor in gaussians)]

    threads = torch.get_num_threads()
    results = []
    for count in (1, 3, 3):
        torch.set_num_threads(count)
        results.append(render())
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def nothing_there() -> dict[str, tuple[Tensor, ...]]:
    means, quats, scales, opacities, colors = random_gaussians(5)
    return {
        "no_gaussians": tuple(tensor[:0] for tensor in (means, quats, scales, opacities, colors)),
        "all_behind": (means * torch.tensor([1.0, 1.0, -1.0]), quats, scales, opacities, colors),
        "all_aside": (means + torch.tensor([100.0, 0.0, 0.0]), quats, scales, opacities, colors),
        "all_transparent": (means, quats, scales, opacities * 0, colors),
    }


@pytest.mark.parametrize("case", nothing_there())
def test_nothing_to_see_gives_zeros_with_zero_gradients(case: str) -> None:
    gaussians = [tensor.clone().requires_grad_() for tensor in nothing_there()[case]]
    image, alpha, info = rasterize(*gaussians, *cameras(2, 20, 18), 20, 18, render_mode="RGB+ED")
    assert image.shape == (2, 18, 20, 4) and alpha.shape == (2, 18, 20, 1)
    assert image.abs().max() == 0 and alpha.abs().max() == 0
    assert info["radii"].dtype == torch.int32 and info["radii"].shape == (2, len(gaussians[0]))
    (image.sum() + alpha.sum()).backward()
    for tensor in (*gaussians, info["means2d"]):
        assert tensor.grad.shape == tensor.shape
        assert tensor.grad.abs().sum() == 0


DEGENERATE = {
    "on_the_camera": {"means": [0.0, 0.0, 0.0]},
    "at_zero_depth": {"means": [1.0, 1.0, 0.0]},
    "just_behind": {"means": [1.0, 1.0, -1e-7]},
    "beyond_the_near_plane_far_aside": {"means": [50.0, -50.0, 0.0101]},
    "infinitely_far": {"means": [0.0, 0.0, 1e20]},
    "not_a_number": {"means": [float("nan"), 0.0, 2.0]},
    "no_rotation": {"quats": [0.0, 0.0, 0.0, 0.0]},
    "a_point": {"scales": [0.0, 0.0, 0.0]},
    "a_disc_seen_from_the_side": {"scales": [0.0, 1.0, 1.0]},
    "a_needle": {"scales": [1e4, 1e-6, 1e-6]},
    "huge": {"scales": [1e18, 1e18, 1e18]},
    "without_opacity": {"opacities": float("nan")},
    "infinite": {"scales": [float("inf"), 1.0, 1.0]},
}


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_a_degenerate_gaussian_spoils_nothing(case: str, mode: str) -> None:
    names = ("means", "quats", "scales", "opacities", "colors")
    gaussians = dict(zip(names, random_gaussians(40, num_bases=4), strict=True))
    for name, value in DEGENERATE[case].items():
        gaussians[name][7] = torch.tensor(value)
    gaussians = {name: tensor.requires_grad_() for name, tensor in gaussians.items()}
    viewmats, Ks = cameras(2, 40, 30)
    image, alpha, info = rasterize(
        **gaussians,
        viewmats=viewmats,
        Ks=Ks,
        width=40,
        height=30,
        sh_degree=1,
        render_mode="RGB+ED",
        rasterize_mode=mode,
    )
    (image.sum() + alpha.sum()).backward()
    for tensor in (image, alpha, info["means2d"].grad, *(tensor.grad for tensor in gaussians.values())):
        assert torch.isfinite(tensor).all()
    assert alpha.max() > 0.5


def test_wrong_input_is_refused_in_one_sentence() -> None:
    means, quats, scales, opacities, colors = random_gaussians(4)
    viewmats, Ks = cameras(1, 8, 8)

    def refused(match: str, *gaussians: Tensor, width: int = 8, **options: object) -> None:
        with pytest.raises(ValueError, match=match):
            rasterize(*gaussians, viewmats, Ks, width, 8, **options)

    refused("means is torch.float64", means.double(), quats, scales, opacities, colors)
    refused("quats has shape", means, quats[:, :3], scales, opacities, colors)
    refused("opacities has shape", means, quats, scales, opacities[:, None], colors)
    refused("colors has shape", means, quats, scales, opacities, colors, sh_degree=1)
    refused("sh_degree is 4", means, quats, scales, opacities, colors, sh_degree=4)
    refused("render_mode is 'D'", means, quats, scales, opacities, colors, render_mode="D")
    refused("rasterize_mode is 'fast'", means, quats, scales, opacities, colors, rasterize_mode="fast")
    refused("image size is 0 x 8", means, quats, scales, opacities, colors, width=0)


def test_gsplat_strategy_densifies_from_our_info() -> None:
    from gsplat.strategy import DefaultStrategy

    means, quats, scales, opacities, colors = random_gaussians(50)
    values = {"means": means, "quats": quats, "scales": scales.log(), "opacities": opacities.logit(), "colors": colors}
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in values.items()})
    optimizers = {name: torch.optim.Adam([params[name]], lr=1e-3) for name in params}
    for absgrad in (False, True):
        strategy = DefaultStrategy(absgrad=absgrad, refine_start_iter=0, refine_every=2, grow_grad2d=1e-6)
        strategy.check_sanity(params, optimizers)
        state = strategy.initialize_state(scene_scale=1.0)
        before = len(params["means"])
        for step in range(1, 3):
            image, _, info = rasterize(
                *(params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid()),
                *(params["colors"], *cameras(2, 32, 24), 32, 24),
                absgrad=absgrad,
            )
            strategy.step_pre_backward(params, optimizers, state, step, info)
            (image - 0.5).square().mean().backward()
            if step == 1:
                strategy.step_post_backward(params, optimizers, state, step, info)
                visible = (info["radii"] > 0).sum(0)
                assert torch.equal(state["count"].long(), visible)
                assert (state["grad2d"] > 0).any()
                assert (state["grad2d"][visible == 0] == 0).all()
            else:
                strategy.step_post_backward(params, optimizers, state, step, info)
        assert len(params["means"]) > before


def test_a_cpu_render_loads_no_cuda_code_even_beside_nvcc(tmp_path: Path) -> None:
    """gsplat compiles its kernels at the first use of its CUDA module where it finds nvcc."""
    compiler = tmp_path / "nvcc"
    compiler.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    compiler.chmod(0o755)
    program = (
        "import sys, torch\n"
        "from guidedvd_ns.rasterization import rasterize\n"
        "inputs = [torch.rand(3, n).requires_grad_() for n in (3, 4, 3)] + [torch.rand(3), torch.rand(3, 3)]\n"
        "K = torch.tensor([[[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]])\n"
        "rasterize(*inputs, torch.eye(4)[None], K, 8, 8)[0].sum().backward()\n"
        "assert inputs[0].grad is not None\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'gsplat'])\n"
    )
    root = Path(__file__).parents[2]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(root), "HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
    assert not (tmp_path / "called").exists()
