"""Normal laws of affine-invariant SPD geometry against independent formulas, quadrature and samples."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import scipy.stats
import torch
from table.common import F64, SPD, SPD_LEM, covariance, real, spd_matrix
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernel import Params
from mf_manifold.numerics.affine_invariant import frechet_mean, radial, square_distance, tangent
from mf_manifold.numerics.eigenvalues3 import eigenvalues_3x3
from mf_manifold.numerics.linalg import (
    congruence,
    sum_log_sinhc_gaps,
    sym,
    sym_eigvals,
    sym_inv_sqrtm,
    sym_logm,
    sym_sqrtm,
    unsvec,
)
from mf_manifold.numerics.sinh_ensemble import log_noncolliding, log_normalizer, mean_square
from mf_manifold.numerics.sinh_sampler import RATIO, _brownian, _gaussian, envelope, sample_tangent
from mf_manifold.testing.density import exp_coords, generator_for
from mf_manifold.testing.manifold import random_points

KERNELS = ("wrapped_normal", "riemannian_normal")


def index_of(scale: float) -> int:
    return math.ceil(math.log(scale) / math.log(RATIO))


def law(name: str, p: int, scale: float, loc: Tensor | None = None) -> mf.distributions.KernelDistribution:
    return mf.distribution(SPD, name, loc=spd_matrix(p) if loc is None else loc, scale=real(scale))


@pytest.mark.parametrize("p", [2, 3, 4])
def test_closed_forms_equal_matrix_logarithms(p: int) -> None:
    x, loc = random_points(SPD, (p, p), 30, 0).requires_grad_(), random_points(SPD, (p, p), 30, 1).requires_grad_()
    t = tangent(x, loc)
    square, gaps = radial(x, loc)
    for value, expected in ((square, t.square().sum((-2, -1))), (gaps, sum_log_sinhc_gaps(sym_eigvals(t)))):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
        for a, b in zip(*(torch.autograd.grad(v.sum(), (x, loc), retain_graph=True) for v in (value, expected)), strict=True):
            torch.testing.assert_close(sym(a), sym(b), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(square_distance(x, loc), square, rtol=0, atol=0)


def test_distances_and_samples_are_those_of_geomstats(tmp_path: Path) -> None:
    loc, x = random_points(SPD, (3, 3), 8, 10), random_points(SPD, (3, 3), 8, 11)
    noise = sym(torch.randn(8, 3, 3, dtype=F64, generator=generator_for(0)))
    u = congruence(sym_sqrtm(loc), noise / 2)
    np.savez(tmp_path / "in.npz", **{"spd/x": loc.numpy(), "spd/y": x.numpy(), "spd/u": u.numpy()})
    command = [sys.executable, str(Path(__file__).with_name("geomstats_oracle.py")), "in.npz", "out.npz"]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "GEOMSTATS_BACKEND": "numpy"}, timeout=300)
    answers = {key: torch.from_numpy(value) for key, value in np.load(tmp_path / "out.npz").items()}
    torch.testing.assert_close(square_distance(x, loc).sqrt(), answers["spd/dist"], rtol=1e-9, atol=1e-9)
    inverse = torch.linalg.inv(sym_sqrtm(loc))
    torch.testing.assert_close(tangent(x, loc), congruence(inverse, answers["spd/log"]), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(tangent(answers["spd/exp"], loc), noise / 2, rtol=1e-8, atol=1e-8)


def test_tangents_of_2x2_matrices_equal_matrix_logarithms() -> None:
    loc = random_points(SPD, (2, 2), 6, 3)
    frame, sizes = random_points(SPD, (2, 2), 1, 4)[0], real([0.0, 1e-9, 1e-3, 0.1, 0.5, 1.5])
    expected = sizes[:, None, None] * frame
    x = sym(congruence(sym_sqrtm(loc), torch.linalg.matrix_exp(expected)))
    torch.testing.assert_close(tangent(x, loc), expected, rtol=1e-9, atol=1e-13)
    x, loc = (torch.cat([t, loc[:1]]).requires_grad_() for t in (x[:5], loc[:5]))  # the last pair is one point twice

    def through_roots(x: Tensor, loc: Tensor) -> Tensor:
        return sym_logm(congruence(sym_inv_sqrtm(loc), x))

    weight = sym(torch.randn(6, 2, 2, dtype=F64, generator=generator_for(0)))
    slopes = [torch.autograd.grad((f(x, loc) * weight).sum(), (x, loc)) for f in (tangent, through_roots)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(sym(a), sym(b), rtol=1e-8, atol=1e-9)
    assert torch.autograd.gradgradcheck(tangent, (x[3:], loc[3:]))


@pytest.mark.parametrize("p", [2, 3, 4])
def test_radial_has_two_derivatives(p: int) -> None:
    x, loc = (random_points(SPD, (p, p), 2, seed).requires_grad_() for seed in (2, 3))

    def total(x: Tensor, loc: Tensor) -> Tensor:
        square, gaps = radial(x, loc)
        return square + gaps

    assert torch.autograd.gradgradcheck(total, (x, loc))


def test_second_derivatives_at_ties_are_not_made_up() -> None:
    x, loc = torch.eye(3, dtype=F64, requires_grad=True), torch.eye(3, dtype=F64)
    (slope,) = torch.autograd.grad(square_distance(x, loc), x, create_graph=True)
    assert bool(slope.isfinite().all())
    assert bool(torch.autograd.grad(slope[0, 0], x)[0].isnan().any())


@pytest.mark.parametrize(
    "values", [(1.0, 1.0, 1.0), (2.0, 2.0, 5.0), (-1.0, 3.0, 3.0), (1e6, 1.0, 1e-6), (1.0, 1.0, 1.0 + 1e-9)]
)
def test_eigenvalues_of_3x3_matrices(values: tuple[float, ...]) -> None:
    frame = torch.linalg.qr(torch.randn(50, 3, 3, dtype=F64, generator=generator_for(0))).Q
    a = sym(congruence(frame, torch.diag(real(list(values))))).requires_grad_()
    found = torch.stack(eigenvalues_3x3([a[..., i, j] for i in range(3) for j in range(i + 1)]), dim=-1)
    size = max(abs(v) for v in values)
    torch.testing.assert_close(found, sym_eigvals(a).flip(-1), rtol=0, atol=1e-14 * size)
    (slope,) = torch.autograd.grad((found / size).exp().sum(), a)
    torch.testing.assert_close(sym(slope), torch.linalg.matrix_exp(a.detach() / size) / size, rtol=1e-9, atol=1e-12 / size)


@pytest.mark.parametrize("scale", [1e-4, 0.05, 0.7, 3.0])
def test_normaliser_in_closed_form(scale: float) -> None:
    with mpmath.workdps(40):
        s, erf = mpmath.mpf(scale), mpmath.erf
        two = 2 * mpmath.sqrt(2) * mpmath.pi**2 * s**2 * mpmath.exp(s**2 / 4) * erf(s / 2)
        flat = 2 ** mpmath.mpf("2.5") * mpmath.pi**2 * (2 * mpmath.pi * s**2) ** mpmath.mpf("1.5")
        three = flat * mpmath.exp(s**2) * (2 * erf(s / 2) - erf(s))
        for p, exact in ((1, mpmath.sqrt(2 * mpmath.pi) * s), (2, two), (3, three)):
            assert abs(float(log_normalizer(real(scale), p)) - float(mpmath.log(exact))) < 2e-14 * max(1, abs(math.log(scale)))


def _pfaffian(p: int, s: float) -> float:
    size = p + p % 2
    with mpmath.workdps(250):
        e = mpmath.zeros(size)
        for j in range(p):
            for k in range(p):
                e[j, k] = mpmath.erf(mpmath.mpf(s) * (k - j) / 2)
            if p % 2:
                e[j, p], e[p, j] = 1, -1
        return float(mpmath.log(mpmath.det(e)) / 2)


@pytest.mark.parametrize("p", [4, 5, 12, 25])
def test_pfaffian_at_any_size_and_scale(p: int) -> None:
    scales = [1e-3, 0.1, 0.6, 2.0, 9.0]
    value, slope = log_noncolliding(real(scales), p)
    for found, s in zip(value.tolist(), scales, strict=True):
        exact = _pfaffian(p, s)
        assert abs(found - exact) < 1e-13 * max(10.0, abs(exact))
    s = real(scales).requires_grad_()
    (by_scale,) = torch.autograd.grad(log_noncolliding(s, p)[0].sum(), s)
    torch.testing.assert_close(by_scale * s.detach(), slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("p", "scale"), [(3, 1.0), (4, 0.6), (5, 0.5)])
def test_normaliser_is_an_average_over_gaussian_matrices(p: int, scale: float) -> None:
    m = p * (p + 1) // 2
    t = unsvec(scale * torch.randn(100_000, m, dtype=F64, generator=generator_for(p)))
    terms = sum_log_sinhc_gaps(torch.linalg.eigvalsh(t)).exp()
    exact = math.exp(float(log_normalizer(real(scale), p)) - m / 2 * math.log(2 * math.pi * scale**2))
    assert abs(float(terms.mean()) - exact) < 4.5 * float(terms.std()) / len(terms) ** 0.5


def test_mean_square_is_that_of_flat_space_for_narrow_laws() -> None:
    for p in (1, 2, 7, 20):
        m = p * (p + 1) / 2
        assert abs(float(mean_square(real(1e-5), p)) / (m * 1e-10) - 1) < 1e-7


@pytest.mark.parametrize("p", [2, 3, 5, 8, 20])
def test_envelopes_hold_everywhere(p: int) -> None:
    spread = torch.logspace(-2, 2, 4000, dtype=F64).unsqueeze(-1)
    clouds = spread * torch.randn(4000, p, dtype=F64, generator=generator_for(p))
    split = spread * torch.where(torch.arange(p) < p // 2, 1.0, -1.0) + 0.3 * clouds / spread
    grid = spread * torch.linspace(-1, 1, p, dtype=F64)
    for s in (0.02, 0.3, 0.8, 1.5, 3.0):
        beta, bound, _ = envelope(p, index_of(s))
        for values in (clouds, split, grid):
            centred = values - values.mean(-1, keepdim=True)
            assert bool((sum_log_sinhc_gaps(centred) - beta * centred.square().sum(-1) <= bound).all())


@pytest.mark.parametrize(("p", "scale"), [(3, 1.5), (5, 1.6), (8, 1.8)])
def test_both_samplers_draw_one_law_at_the_predicted_rates(p: int, scale: float) -> None:
    count, generator = 30_000, generator_for(p)
    s, found = torch.full((count,), scale, dtype=F64), envelope(p, index_of(scale))
    table = real(list(found)).expand(count, 3)
    narrower = 1 - 2 * found.beta * scale**2
    free = (p - 1) * (p + 2) / 4
    gain = float(log_normalizer(real(scale), p)) - (free + 0.5) * math.log(2 * math.pi * scale**2)
    rates = (gain + free * math.log(narrower) - found.bound, float(log_noncolliding(real(scale), p)[0]))
    sets = []
    for draw, rate in ((_gaussian, rates[0]), (_brownian, rates[1])):
        values, _, accepted = draw(s, table, p, generator)
        assert abs(float(accepted.double().mean()) - math.exp(rate)) < 4.5 * (math.exp(rate) / count) ** 0.5
        v = values[accepted].sort(-1).values
        sets.append(torch.stack([v[:, -1] - v[:, 0], v[:, 1] - v[:, 0], v.square().sum(-1), v.mean(-1)], dim=-1))
    (a, b) = sets
    z = (a.mean(0) - b.mean(0)).abs() / (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert float(z.max()) < 4.5


@pytest.mark.parametrize("scale", [0.05, 1.2, 3.0])
def test_gaps_of_samples_have_their_distribution(scale: float) -> None:
    values, _ = sample_tangent(torch.full((20_000,), scale, dtype=F64), 2, generator_for(1))
    gaps = (values[:, 1] - values[:, 0]).abs() / scale

    def density(h: float) -> float:
        return math.sinh(h * scale / 2) * math.exp(-h * h / 4)

    knots = torch.linspace(0, 12, 121).tolist()
    cells = [scipy.integrate.quad(density, a, b)[0] for a, b in zip(knots, knots[1:], strict=False)]
    cumulated = torch.tensor([0.0, *cells], dtype=F64).cumsum(0)
    curve = scipy.interpolate.PchipInterpolator(knots, (cumulated / cumulated[-1]).numpy())
    assert scipy.stats.kstest(gaps.numpy(), curve).pvalue > 1e-4


def test_many_scales_and_large_matrices() -> None:
    scale = torch.logspace(-3, 0, 200, dtype=F64)
    x = mf.distribution(SPD, "riemannian_normal", loc=torch.eye(3, dtype=F64), scale=scale).sample((200,), generator_for(0))
    ratio = square_distance(x, torch.eye(3, dtype=F64)).mean(0) / mean_square(scale, 3)
    assert float((ratio - 1).abs().max()) < 5 * (2 / 6 / 200) ** 0.5 * 1.5
    big = law("riemannian_normal", 20, 0.7)
    x = big.sample((50,), generator_for(1))
    terms = square_distance(x, big.params["loc"])
    assert abs(float(terms.mean() - mean_square(real(0.7), 20))) < 4.5 * float(terms.std()) / 50**0.5


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("p", [1, 2, 3, 8])
def test_narrow_laws_are_normal(name: str, p: int) -> None:
    dist, s, m = law(name, p, 1e-4), 1e-4, p * (p + 1) // 2
    v = torch.randn(20, m, dtype=F64, generator=generator_for(0))
    x = exp_coords(SPD, dist.params["loc"], s * v)
    expected = -v.square().sum(-1) / 2 - m / 2 * math.log(2 * math.pi * s**2)
    torch.testing.assert_close(dist.log_prob(x), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_numbers_are_log_normal(name: str) -> None:
    x = torch.linspace(0.1, 6, 30, dtype=F64)
    dist = mf.distribution(SPD, name, loc=real([[2.0]]), scale=real(0.7), measure="lebesgue")
    expected = torch.from_numpy(scipy.stats.lognorm(0.7, scale=2.0).logpdf(x.numpy()))
    torch.testing.assert_close(dist.log_prob(x[:, None, None]), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dist.entropy(), real(float(scipy.stats.lognorm(0.7, scale=2.0).entropy())), rtol=1e-12, atol=0)


@pytest.mark.parametrize("manifold", [SPD, SPD_LEM])
def test_wrapped_normal_around_the_identity_is_log_normal(manifold: object) -> None:
    x, params = random_points(SPD, (3, 3), 20, 5), {"loc": torch.eye(3, dtype=F64), "covariance_matrix": covariance(6, 0.5)}
    wrapped, log_normal = (mf.distribution(manifold, name, **params) for name in ("wrapped_normal", "log_normal"))
    torch.testing.assert_close(wrapped.log_prob(x), log_normal.log_prob(x), rtol=1e-11, atol=1e-11)


def test_variants_of_the_wrapped_normal_agree() -> None:
    loc, x = spd_matrix(3), random_points(SPD, (3, 3), 20, 6)
    scale = torch.linspace(0.3, 0.8, 6, dtype=F64)
    several = mf.distribution(SPD, "wrapped_normal", loc=loc, scale=scale).log_prob(x)
    full = mf.distribution(SPD, "wrapped_normal", loc=loc, covariance_matrix=torch.diag(scale.square())).log_prob(x)
    torch.testing.assert_close(several, full, rtol=1e-12, atol=1e-12)
    one = law("wrapped_normal", 3, 0.4).log_prob(x)
    six = mf.distribution(SPD, "wrapped_normal", loc=loc, scale=torch.full((6,), 0.4, dtype=F64)).log_prob(x)
    torch.testing.assert_close(one, six, rtol=1e-11, atol=1e-11)


def test_coordinates_of_the_wrapped_normal_are_those_of_the_geometry() -> None:
    loc, cov = spd_matrix(2), covariance(3, 1e-3)
    dist = mf.distribution(SPD, "wrapped_normal", loc=loc, covariance_matrix=cov)
    v = torch.linalg.cholesky(cov) @ torch.randn(3, 30, dtype=F64, generator=generator_for(0))
    expected = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), cov).log_prob(v.T)
    torch.testing.assert_close(dist.log_prob(exp_coords(SPD, loc, v.T)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("measure", ["riemannian", "lebesgue", "frobenius"])
def test_entropy_by_every_measure_that_has_one(measure: str) -> None:
    dist = law("riemannian_normal", 3, 0.6)
    terms = -dist.log_prob(dist.sample((20_000,), generator_for(0)), measure=measure)
    assert abs(float(terms.mean() - dist.entropy(measure))) < 4.5 * float(terms.std()) / 20_000**0.5
    with pytest.raises(NotImplementedError, match="log_euclidean measure"):
        dist.entropy("log_euclidean")


@pytest.mark.parametrize("name", KERNELS)
def test_divergence_exists_at_equal_locations(name: str) -> None:
    p, q = law(name, 3, 0.5), law(name, 3, 0.9)
    x = p.sample((20_000,), generator_for(0))
    terms = p.log_prob(x) - q.log_prob(x)
    assert abs(float(terms.mean() - torch.distributions.kl_divergence(p, q))) < 4.5 * float(terms.std()) / 20_000**0.5
    with pytest.raises(NotImplementedError, match="equal loc only"):
        torch.distributions.kl_divergence(p, law(name, 3, 0.5, torch.eye(3, dtype=F64)))


def _slopes(dist: mf.distributions.KernelDistribution, x: Tensor, weights: Tensor) -> list[float]:
    """Derivatives of the weighted mean log likelihood by moves of the parameters, in units of their size."""
    w = dist.params
    leaves = {name: torch.zeros_like(value, requires_grad=True) for name, value in w.items()}
    root = sym_sqrtm(w["loc"])
    moved: Params = {"loc": congruence(root, torch.linalg.matrix_exp(sym(leaves["loc"])))}
    for name in set(w) - {"loc"}:
        change = leaves[name] if name == "scale" else sym(leaves[name])
        moved[name] = w[name] * change.exp() if name == "scale" else w[name] + w[name] @ change @ w[name]
    value = weights @ dist.kernel.log_prob(x, moved) / weights.sum()
    return [float(g.abs().max()) for g in torch.autograd.grad(value, list(leaves.values()))]


@pytest.mark.parametrize(("name", "options"), [(KERNELS[0], "diagonal"), (KERNELS[0], "full"), (KERNELS[1], None)])
def test_fit_is_stationary_and_recovers(name: str, options: str | None) -> None:
    loc = spd_matrix(2)
    params: Params = {"loc": loc, "scale": real(0.8)}
    if options:
        params = {"loc": loc, "covariance_matrix": covariance(3, 0.6)}
    truth = mf.distribution(SPD, name, **params)
    x = truth.sample((3000,), generator_for(0))
    weights = torch.rand(3000, dtype=F64, generator=generator_for(1))
    fitted = mf.fit(SPD, name, x, weights, **({"covariance": options} if options else {}))
    assert max(_slopes(fitted, x, weights)) < 1e-7
    assert float(square_distance(fitted.params["loc"], loc)) < 0.06**2 * 3
    if options != "diagonal":
        for key in params:
            torch.testing.assert_close(fitted.params[key], params[key], rtol=0.12, atol=0.04)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_fit_with_weights_of_any_sum_and_precision(name: str) -> None:
    x, kernel = random_points(SPD, (2, 2), 20, 12), mf.kernel_for(SPD, (2, 2), name)
    expected, found = kernel.fit(x), kernel.fit(x, torch.full((20,), 3.0))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6)


def test_frechet_mean_of_two_matrices_is_their_geodesic_middle() -> None:
    x = random_points(SPD, (4, 4), 2, 3)
    middle = mf.geometry.expmap(SPD, x[0], mf.geometry.logmap(SPD, x[0], x[1]) / 4)
    torch.testing.assert_close(frechet_mean(x, real([0.75, 0.25])), middle, rtol=1e-9, atol=1e-9)


def test_pairs_in_blocks_and_in_float32() -> None:
    for p in (2, 3, 4):
        x, loc = random_points(SPD, (p, p), 40, 7), random_points(SPD, (p, p), 150, 8)
        for name in KERNELS:
            scale = torch.full((150,) if name == "riemannian_normal" else (150, 1), 0.3, dtype=F64)
            kernel, w = mf.kernel_for(SPD, (p, p), name), {"loc": loc, "scale": scale}
            pairs = kernel.pairwise_log_prob(x, w)
            torch.testing.assert_close(pairs, kernel.log_prob(x[:, None], w), rtol=1e-12, atol=1e-12)
            single = kernel.pairwise_log_prob(x.float(), {k: v.float() for k, v in w.items()})
            rounded = kernel.pairwise_log_prob(x.float().double(), {k: v.float().double() for k, v in w.items()})
            assert bool(((single - rounded).abs() <= 1e-4 + 1e-7 * rounded.abs()).all())
            assert kernel.pairwise_log_prob(x, {k: v[:0] for k, v in w.items()}).shape == (40, 0)


def test_messages() -> None:
    eye = torch.eye(2, dtype=F64)
    with pytest.raises(ValueError, match=r"scale of riemannian_normal .* satisfy Interval"):
        mf.distribution(SPD, "riemannian_normal", loc=eye, scale=11.0)
    with pytest.raises(ValueError, match=r"can hold, got 2 at size 20"):
        mf.distribution(SPD, "riemannian_normal", loc=torch.eye(20, dtype=F64), scale=2.0).sample()
    with pytest.raises(ValueError, match="samples are accepted"):
        sample_tangent(torch.ones(1, dtype=F64), 60)
    for name in KERNELS:
        with pytest.raises(ValueError, match=r"at least two different points|vary in all 3 coordinates"):
            mf.fit(SPD, name, eye.expand(5, 2, 2))
        with pytest.raises(NotImplementedError, match="log-Euclidean"):
            _ = mf.distribution(SPD_LEM, name, loc=eye, scale=0.3).mean
    with pytest.raises(ValueError, match="more points are needed"):
        mf.fit(SPD, "wrapped_normal", random_points(SPD, (2, 2), 3, 0), covariance="full")
    with pytest.raises(NotImplementedError, match="no entropy"):
        law("wrapped_normal", 2, 0.5).entropy()
