"""Rotations against SciPy, closed forms and their own limits; fits, error messages, estimators."""

from __future__ import annotations

import math
from pathlib import Path

import geoopt
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from scipy.spatial.transform import Rotation
from table.common import F64, PLANE, TORUS, covariance, real
from table.rotations import QUATERNIONS, ROTATIONS, concentration, quaternion, rotation
from torch import Tensor

import mf_manifold as mf
from mf_manifold.kernels.special_orthogonal_isotropic_normal import log_density
from mf_manifold.numerics import quaternions
from mf_manifold.numerics.orthogonal import hat, log_rotation, nearest_rotation, vee

G = mf.geometry
LOG_VOLUME = math.log(8 * math.pi**2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(n: int, count: int, seed: int = 0) -> Tensor:
    """Uniform rotations."""
    return G.sample_uniform(ROTATIONS, (n, n), (count,), generator=generator(seed), dtype=F64)


def half_turn(axis: int = 0) -> Tensor:
    """A rotation by pi about a coordinate axis of space."""
    return 2 * torch.diag(torch.eye(3, dtype=F64)[axis]) - torch.eye(3, dtype=F64)


def test_quaternions_agree_with_scipy() -> None:
    r = torch.cat([some(3, 50), torch.stack([half_turn(i) for i in range(3)])])
    q = quaternions.from_matrix(r)
    theirs = Rotation.from_quat(q.roll(-1, -1).numpy())
    torch.testing.assert_close(torch.from_numpy(theirs.as_matrix()), r, rtol=0, atol=1e-14)
    torch.testing.assert_close(quaternions.to_matrix(q), r, rtol=0, atol=1e-14)
    vectors = quaternions.rotation_vector(quaternions.upper(q[:50]))
    torch.testing.assert_close(vectors, torch.from_numpy(theirs[:50].as_rotvec()), rtol=1e-12, atol=1e-13)
    product = quaternions.multiply(q[:25], q[25:50])
    composed = Rotation.from_matrix(r[:25].numpy()) * Rotation.from_matrix(r[25:50].numpy())
    torch.testing.assert_close(quaternions.to_matrix(product), torch.from_numpy(composed.as_matrix()), rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_logarithm_and_distance_agree_with_scipy(n: int) -> None:
    x, y = some(n, 8), some(n, 8, seed=1)
    logs = [scipy.linalg.logm(a.T.numpy() @ b.numpy()) for a, b in zip(x, y, strict=True)]
    theirs = torch.stack([torch.from_numpy(np.real(a)) for a in logs])
    torch.testing.assert_close(x.mT @ G.logmap(ROTATIONS, x, y), theirs, rtol=0, atol=1e-9)
    torch.testing.assert_close(G.dist(ROTATIONS, x, y), theirs.flatten(1).norm(dim=1) / math.sqrt(2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("angle", [1e-12, 1e-7, 1e-3, math.pi - 1e-3, math.pi - 1e-7])
def test_distance_keeps_its_digits_at_both_ends(n: int, angle: float) -> None:
    v = torch.eye(n * (n - 1) // 2, dtype=F64)[-1] * angle
    x = torch.eye(n, dtype=F64)
    y = torch.linalg.matrix_exp(hat(v, n))
    assert abs(float(G.dist(ROTATIONS, x, y)) - angle) < 1e-15 + 4e-16 * angle
    torch.testing.assert_close(vee(G.logmap(ROTATIONS, x, y)), v, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("signs", [[-1, -1], [1, -1, -1], [-1, -1, 1, 1], [-1, -1, -1, -1], [1, -1, -1, -1, -1]])
def test_logarithm_at_exact_half_turns_is_one_of_them(signs: list[int]) -> None:
    y = torch.diag(real([float(s) for s in signs]))
    eye = torch.eye(len(signs), dtype=F64)
    u = G.logmap(ROTATIONS, eye, y).requires_grad_()
    torch.testing.assert_close(G.expmap(ROTATIONS, eye, u), y, rtol=0, atol=1e-12)
    assert math.isclose(float(G.dist(ROTATIONS, eye, y)) ** 2, math.pi**2 * signs.count(-1) / 2, rel_tol=1e-12)
    point = y.clone().requires_grad_()
    log_rotation(point).sum().backward()
    assert point.grad is not None and torch.isfinite(point.grad).all()


@pytest.mark.parametrize("n", [2, 4, 5])
@pytest.mark.parametrize("gap", [1e-5, 1e-9, 1.2e-13])
def test_logarithm_next_to_half_turns_is_as_good_as_the_matrix(n: int, gap: float) -> None:
    angle = torch.zeros(n * (n - 1) // 2, dtype=F64)
    angle[0] = math.pi - gap
    frame, x = some(n, 2)
    y = x @ frame @ torch.linalg.matrix_exp(hat(angle, n)) @ frame.mT
    u = G.logmap(ROTATIONS, x, y)
    torch.testing.assert_close(G.expmap(ROTATIONS, x, u), y, rtol=0, atol=1e-12)
    assert abs(float(u.norm()) / math.sqrt(2) - (math.pi - gap)) < 1e-12


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_rotations_from_reals_have_right_gradients_at_the_identity(n: int) -> None:
    raw = G.to_raw(ROTATIONS, torch.eye(n, dtype=F64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: G.from_raw(ROTATIONS, r, (n, n)), (raw,))


def test_second_derivatives_that_are_missing_raise() -> None:
    x = torch.randn(3, 3, dtype=F64, generator=generator()).requires_grad_()
    law = mf.distribution(ROTATIONS, "matrix_fisher", concentration_matrix=x)
    for value in (nearest_rotation(x)[0, 0], law.log_prob(rotation(3)), law.entropy()):
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        with pytest.raises(RuntimeError, match="at most one derivative"):
            torch.autograd.grad(slope.sum(), x)


def test_nearest_rotation_and_its_gradient() -> None:
    x = torch.randn(4, 3, 3, dtype=F64, generator=generator()).requires_grad_()
    theirs = Rotation.align_vectors(x[0].detach().numpy().T, np.eye(3))[0].as_matrix()
    torch.testing.assert_close(nearest_rotation(x[0]).detach(), torch.from_numpy(theirs), rtol=0, atol=1e-7)
    assert torch.autograd.gradcheck(nearest_rotation, (x,))
    mirror = torch.diag(real([1.0, 1.0, -1.0]))
    assert float(torch.linalg.det(nearest_rotation(mirror))) > 0


@pytest.mark.parametrize("n", [3, 4, 5])
def test_uniform_rotations_have_the_moments_of_haar_measure(n: int) -> None:
    x = some(n, 40000)
    trace = x.diagonal(dim1=-2, dim2=-1).sum(-1)
    theirs = scipy.stats.special_ortho_group.rvs(n, 4000, random_state=0)
    assert float(x.mean(0).abs().max()) < 5 / math.sqrt(n * 40000)
    assert abs(float(trace.square().mean()) - 1) < 0.05  # characters are orthonormal
    assert scipy.stats.ks_2samp(trace[:4000].numpy(), np.trace(theirs, axis1=1, axis2=2)).pvalue > 1e-4


def test_volumes() -> None:
    assert math.isclose(G.log_volume(ROTATIONS, (2, 2)), math.log(2 * math.pi))
    assert math.isclose(G.log_volume(ROTATIONS, (3, 3)), LOG_VOLUME)
    assert math.isclose(G.log_volume(ROTATIONS, (4, 4)), LOG_VOLUME + math.log(2 * math.pi**2))
    assert G.log_volume(QUATERNIONS, (4,)) == G.log_volume(ROTATIONS, (3, 3))


def test_measures_of_rotations() -> None:
    law = mf.distribution(ROTATIONS, loc=rotation(3), scale=0.5)
    x = law.sample((4,), generator=generator())
    assert mf.measure_kinds(ROTATIONS) == mf.measure_kinds(QUATERNIONS) == ("riemannian", "normalized", "haar", "frobenius")
    riemannian = law.log_prob(x)
    torch.testing.assert_close(law.log_prob(x, measure="haar"), riemannian + LOG_VOLUME)
    torch.testing.assert_close(law.log_prob(x, measure="normalized"), riemannian + LOG_VOLUME)
    # the Frobenius volume is 16 sqrt 2 pi^2
    torch.testing.assert_close(law.log_prob(x, measure="frobenius"), riemannian - 1.5 * math.log(2))
    heat = mf.distribution(ROTATIONS, "isotropic_normal", loc=rotation(3), scale=0.5)
    assert math.isclose(float(heat.entropy("haar")), float(heat.entropy()) - LOG_VOLUME, rel_tol=1e-12)
    assert math.isclose(float(heat.entropy("frobenius")), float(heat.entropy()) + 1.5 * math.log(2), rel_tol=1e-12)


def test_quaternions_have_the_densities_of_matrices() -> None:
    q = quaternion()
    at = G.sample_uniform(QUATERNIONS, (4,), (20,), generator=generator(), dtype=F64)
    x = quaternions.to_matrix(at)
    shared = {
        "matrix_fisher": {"concentration_matrix": concentration([4.0, 2.0, -1.0])},
        "projected_normal": {"loc": real([1.0, 2.0, 0.0, 1.0]), "covariance_matrix": covariance(4, 1.0)},
        "angular_central_gaussian": {"covariance_matrix": covariance(4, 1.0)},
    }
    for name in ("wrapped_normal", "cayley_normal", "isotropic_normal"):
        ours = mf.distribution(QUATERNIONS, name, loc=-q, scale=0.7).log_prob(at)
        torch.testing.assert_close(
            ours, mf.distribution(ROTATIONS, name, loc=quaternions.to_matrix(q), scale=0.7).log_prob(x), rtol=1e-10, atol=1e-10
        )
    for name, params in shared.items():
        ours, theirs = mf.distribution(QUATERNIONS, name, **params), mf.distribution(ROTATIONS, name, **params)
        torch.testing.assert_close(ours.log_prob(-at), theirs.log_prob(x), rtol=1e-10, atol=1e-10)


def test_plane_rotations_are_angles() -> None:
    angle = torch.linspace(-3, 3, 13, dtype=F64).unsqueeze(-1)
    x = torch.linalg.matrix_exp(hat(angle, 2))
    for s in (0.3, 2.0):
        ours = mf.distribution(ROTATIONS, "wrapped_normal", loc=torch.eye(2, dtype=F64), scale=s)
        theirs = mf.distribution(TORUS, "wrapped_normal", loc=real([0.0]), scale=real([s]))
        torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(angle), rtol=1e-12, atol=1e-12)


def test_one_winding_is_half_the_density_at_half_turns() -> None:
    s, eye = 0.6, torch.eye(3, dtype=F64)
    law = mf.distribution(ROTATIONS, "wrapped_normal", loc=eye, scale=s)
    alone = -1.5 * math.log(2 * math.pi * s**2) - math.pi**2 / (2 * s**2) + math.log(math.pi**2 / 4)
    assert math.isclose(float(law.log_prob(half_turn())), alone + math.log(2), rel_tol=1e-9)


def test_isotropic_normal_between_wrapped_normal_and_uniform() -> None:
    eye, x = torch.eye(3, dtype=F64), torch.linalg.matrix_exp(hat(real([0.1, -0.3, 0.2]), 3))
    s, t = 0.2, math.sqrt(0.14)
    heat = mf.distribution(ROTATIONS, "isotropic_normal", loc=eye, scale=s).log_prob(x)
    wrapped = mf.distribution(ROTATIONS, "wrapped_normal", loc=eye, scale=s).log_prob(x)
    assert math.isclose(float(heat - wrapped), s**2 / 8 - math.log(t / 2 / math.sin(t / 2)), rel_tol=1e-9)
    wide = mf.distribution(ROTATIONS, "isotropic_normal", loc=eye, scale=8.0)
    torch.testing.assert_close(wide.log_prob(some(3, 5)), torch.full((5,), -LOG_VOLUME, dtype=F64))
    assert math.isclose(float(wide.entropy()), LOG_VOLUME, rel_tol=1e-12)


def test_images_and_characters_agree_where_they_meet() -> None:
    chord2 = torch.linspace(0, 2, 41, dtype=F64)
    both = [log_density(chord2, torch.full_like(chord2, s)) for s in (1.5 - 1e-12, 1.5 + 1e-12)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", [0.05, 0.6, 1.45, 1.55, 3.0])
def test_isotropic_angles_follow_their_distribution_function(scale: float) -> None:
    law = mf.distribution(ROTATIONS, "isotropic_normal", loc=torch.eye(3, dtype=F64), scale=scale)
    x = law.sample((20000,), generator=generator())
    angle = G.dist(ROTATIONS, torch.eye(3, dtype=F64), x)
    # the integral of (2l + 1) exp(-l (l + 1) s^2 / 2) [cos l t - cos (l + 1) t] / pi
    n = torch.arange(1, 400, dtype=F64)
    weight = (2 * n + 1) * torch.exp(-n * (n + 1) * scale**2 / 2)
    t = angle.unsqueeze(-1)
    series = (weight * (torch.sin(n * t) / n - torch.sin((n + 1) * t) / (n + 1))).sum(-1)
    u = (angle - angle.sin() + series) / math.pi
    assert scipy.stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
    mean_trace = 3 * math.exp(-(scale**2))
    assert abs(float(x.diagonal(dim1=-2, dim2=-1).sum(-1).mean()) - mean_trace) < 5 * 1.5 / math.sqrt(20000)


def test_cayley_normal_is_close_to_wrapped_normal_where_narrow() -> None:
    eye = torch.eye(3, dtype=F64)
    x = torch.linalg.matrix_exp(hat(0.01 * torch.randn(50, 3, dtype=F64, generator=generator()), 3))
    laws = [mf.distribution(ROTATIONS, name, loc=eye, scale=0.01) for name in ("cayley_normal", "wrapped_normal")]
    assert float((laws[0].log_prob(x) - laws[1].log_prob(x)).abs().max()) < 2e-3


@pytest.mark.parametrize("n", [3, 4])
def test_cayley_normal_at_half_turns_is_tiny_and_has_gradients(n: int) -> None:
    turn = torch.diag(real([1.0] * (n - 2) + [-1.0, -1.0])).requires_grad_()
    law = mf.distribution(ROTATIONS, loc=torch.eye(n, dtype=F64), scale=1.0, validate_args=False)
    log_q = law.log_prob(turn)
    log_q.backward()
    assert -math.inf < float(log_q.detach()) < -1e20
    assert turn.grad is not None and torch.isfinite(turn.grad).all()


@pytest.mark.parametrize("k", [0.0, 0.3, 5.0, 200.0])
def test_fisher_normaliser_of_isotropic_laws(k: float) -> None:
    eye = torch.eye(3, dtype=F64)
    law = mf.distribution(ROTATIONS, "matrix_fisher", concentration_matrix=k * eye, measure="haar")
    # c = e^k (I0(2k) - I1(2k))
    log_c = 3 * k + math.log(scipy.special.ive(0, 2 * k) - scipy.special.ive(1, 2 * k))
    assert abs(float(law.log_prob(eye)) - (3 * k - log_c)) < 1e-11


def test_fisher_gradient_is_the_point_minus_its_mean() -> None:
    for values in ([3.0, 1.0, -0.5], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [4.0, 0.0, 0.0]):
        f = concentration(values).requires_grad_()
        law = mf.distribution(ROTATIONS, "matrix_fisher", concentration_matrix=f)
        x = some(3, 1)[0]
        law.log_prob(x).backward()
        draws = law.sample((40000,), generator=generator())
        assert f.grad is not None
        assert float((x - f.grad - draws.mean(0)).abs().max()) < 5 / math.sqrt(40000)


def test_fisher_fit_matches_the_mean_rotation() -> None:
    for values in ([30.0, 10.0, -5.0], [1e4, 5e3, 2e3], [0.5, 0.2, 0.1]):
        law = mf.distribution(ROTATIONS, "matrix_fisher", concentration_matrix=concentration(values))
        x = law.sample((2000,), generator=generator())
        fitted = law.fit(x)
        f = fitted.params["concentration_matrix"].clone().requires_grad_()
        mf.distribution(ROTATIONS, "matrix_fisher", concentration_matrix=f).log_prob(x).mean().backward()
        assert f.grad is not None and float(f.grad.abs().max()) < 1e-9  # stationary
        assert float(torch.distributions.kl_divergence(law, fitted)) < 0.02
    same = mf.fit(ROTATIONS, "matrix_fisher", some(3, 1).expand(10, 3, 3))
    assert float(torch.linalg.svdvals(same.concentration_matrix).max()) < 1.01e6  # the documented cap


@pytest.mark.parametrize("name", ["isotropic_normal", "cayley_normal"])
def test_fits_by_the_angle_are_stationary_and_close(name: str) -> None:
    for scale in (1e-3, 0.7):
        law = mf.distribution(ROTATIONS, name, loc=rotation(3), scale=scale)
        x = law.sample((2000,), generator=generator())
        fitted = mf.fit(ROTATIONS, name, x)
        assert math.isclose(float(fitted.scale), scale, rel_tol=0.05)
        v, s = torch.zeros(3, dtype=F64, requires_grad=True), fitted.scale.clone().requires_grad_()
        loc = fitted.loc @ torch.linalg.matrix_exp(hat(v, 3))
        mf.distribution(ROTATIONS, name, loc=loc, scale=s, validate_args=False).log_prob(x).mean().backward()
        assert v.grad is not None and s.grad is not None
        assert scale * float(v.grad.abs().max()) < 1e-9 and scale * abs(float(s.grad)) < 1e-9
    with pytest.raises(ValueError, match="Expected rotations that differ"):
        mf.fit(ROTATIONS, name, x[:1].expand(5, 3, 3))


def test_cayley_entropy_of_a_diagonal_covariance() -> None:
    eye = torch.eye(3, dtype=F64)
    full = mf.distribution(ROTATIONS, loc=eye, covariance_matrix=0.49 * eye)
    assert math.isclose(float(full.entropy()), float(mf.distribution(ROTATIONS, loc=eye, scale=0.7).entropy()), rel_tol=1e-12)
    with pytest.raises(NotImplementedError, match="no entropy in closed form"):
        mf.distribution(ROTATIONS, loc=torch.eye(4, dtype=F64), scale=0.7).entropy()


def test_angular_central_gaussian_is_the_projected_normal_around_zero() -> None:
    c, x = covariance(4, 1.3), some(3, 10)
    acg = mf.distribution(ROTATIONS, "angular_central_gaussian", covariance_matrix=c)
    projected = mf.distribution(ROTATIONS, "projected_normal", loc=torch.zeros(4, dtype=F64), covariance_matrix=c)
    torch.testing.assert_close(acg.log_prob(x), projected.log_prob(x), rtol=0, atol=1e-12)
    draws = acg.sample((3000,), generator=generator())
    fitted = acg.fit(draws).params["covariance_matrix"].requires_grad_()
    mf.distribution(ROTATIONS, "angular_central_gaussian", covariance_matrix=fitted).log_prob(draws).mean().backward()
    assert fitted.grad is not None and float(fitted.grad.abs().max()) < 1e-9
    with pytest.raises(ValueError, match=r"span R\^4.*no largest likelihood"):
        mf.fit(ROTATIONS, "angular_central_gaussian", some(3, 3))


def test_single_precision_pairs_of_narrow_laws() -> None:
    loc = some(3, 20)
    for name in ("wrapped_normal", "isotropic_normal", "cayley_normal"):
        x = mf.distribution(ROTATIONS, name, loc=loc, scale=1e-3).sample(generator=generator()).float()
        w = {"loc": loc.float(), "scale": torch.full((20,), 1e-3)}
        kernel = mf.kernel_for(ROTATIONS, (3, 3), name)
        wide = {k: v.double() for k, v in w.items()}
        exact = kernel.log_prob(x.double().unsqueeze(1), wide)
        error = (kernel.pairwise_log_prob(x, w) - exact).abs()[exact > -1e6]
        assert float((error / exact.abs().clamp_min(200)[exact > -1e6]).max()) < 1e-6


def test_single_precision_pairs_next_to_half_turns() -> None:
    kernel = mf.kernel_for(ROTATIONS, (3, 3), "cayley_normal")
    x = torch.linalg.matrix_exp(hat(real([[math.pi - 0.003, 0.0, 0.0]]), 3)).float()
    w = {"loc": torch.eye(3).unsqueeze(0), "scale": torch.ones(1)}
    exact = kernel.log_prob(x.double(), {k: v.double() for k, v in w.items()})
    torch.testing.assert_close(kernel.pairwise_log_prob(x, w)[0].double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("manifold", "shape"), [(ROTATIONS, (3, 3)), (QUATERNIONS, (4,))], ids=["matrices", "quaternions"])
def test_single_precision_networks_make_covariances(manifold: geoopt.Manifold, shape: tuple[int, ...]) -> None:
    for name in ("projected_normal", "angular_central_gaussian", "wrapped_normal", "cayley_normal"):
        options = {} if name == "angular_central_gaussian" else {"covariance": "full"}
        kernel = mf.kernel_for(manifold, shape, name, **options)
        w = kernel.params(30 * torch.randn(2000, kernel.num_raw, generator=generator()))
        x = kernel.rsample(w, (), generator())
        assert torch.isfinite(kernel.log_prob(x, w)).all()


def test_wide_covariances_have_the_range_of_scales() -> None:
    eye = torch.eye(3, dtype=F64)
    full = mf.distribution(ROTATIONS, "wrapped_normal", loc=eye, covariance_matrix=15**2 * eye)
    isotropic = mf.distribution(ROTATIONS, "wrapped_normal", loc=eye, scale=15.0)
    torch.testing.assert_close(full.log_prob(some(3, 5)), isotropic.log_prob(some(3, 5)), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="scales up to 20"):
        mf.distribution(ROTATIONS, "wrapped_normal", loc=eye, covariance_matrix=21**2 * eye).log_prob(eye)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"n = 2 or 3 for wrapped_normal .*\(4, 4\); cayley_normal"):
        mf.distribution(ROTATIONS, "wrapped_normal", loc=torch.eye(4), scale=1.0)
    with pytest.raises(ValueError, match=r"n = 3 for isotropic_normal .*\(2, 2\)"):
        mf.distribution(ROTATIONS, "isotropic_normal", loc=torch.eye(2), scale=1.0)
    with pytest.raises(ValueError, match="scales up to 20"):
        mf.distribution(ROTATIONS, "wrapped_normal", loc=torch.eye(3), scale=30.0).log_prob(torch.eye(3))
    with pytest.raises(ValueError, match=r"reflections \(determinant -1\)"):
        mf.distribution(ROTATIONS, loc=-torch.eye(3), scale=1.0, validate_args=True)
    with pytest.raises(ValueError, match="off the unit quaternions"):
        mf.distribution(QUATERNIONS, loc=2 * torch.eye(4)[0], scale=1.0, validate_args=True)
    with pytest.raises(ValueError, match=r"point shape \(n, n\)"):
        mf.kernel_for(ROTATIONS, (3,))
    with pytest.raises(ValueError, match=r"point shape \(4,\)"):
        mf.kernel_for(QUATERNIONS, (3,))


@pytest.mark.parametrize("manifold", [ROTATIONS, QUATERNIONS], ids=["matrices", "quaternions"])
def test_optimisers_of_geoopt_find_a_rotation(manifold: geoopt.Manifold) -> None:
    target = rotation(3) if manifold is ROTATIONS else quaternion()
    start = manifold.origin(*target.shape, dtype=F64)
    assert manifold.check_point_on_manifold(start)
    point = geoopt.ManifoldParameter(start, manifold=manifold)
    optimiser = geoopt.optim.RiemannianSGD([point], lr=0.3)
    for _ in range(40):
        optimiser.zero_grad()
        (G.dist(manifold, point, target).square() / 2).backward()
        optimiser.step()
    assert float(G.dist(manifold, point.data, target)) < 1e-4
    assert manifold.check_point_on_manifold(point.data)
    other = manifold.random(5, *target.shape, dtype=F64, generator=generator())
    assert manifold.check_point_on_manifold(other[:0]) and manifold.check_vector_on_tangent(other[:0], other[:0])
    v = manifold.proju(other, torch.ones_like(other))
    assert manifold.check_vector_on_tangent(other, v)
    moved = manifold.transp(other, manifold.expmap(other, v), v)
    torch.testing.assert_close(manifold.inner(other, moved), manifold.inner(other, v))


def test_estimators_on_rotations_and_poses(tmp_path: Path) -> None:
    law = mf.distribution(QUATERNIONS, "isotropic_normal", loc=quaternion().float(), scale=0.4)
    data = law.sample((300,), generator=generator())
    flipped = torch.where(torch.arange(300).unsqueeze(-1) % 2 == 0, data, -data)
    scores = [mf.KernelDensity(QUATERNIONS, (4,)).fit(x, progress=False).log_prob(data[:5]) for x in (data, flipped)]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-4)  # q and -q are one point
    poses = geoopt.ProductManifold((ROTATIONS, (3, 3)), (PLANE, 3))
    x = torch.cat([quaternions.to_matrix(data).flatten(1), torch.randn(300, 3, generator=generator())], dim=1)
    flow = mf.MarginalFlow(poses, (12,), n_components=32, hidden=(16,)).fit(x, max_steps=5, progress=False)
    flow.save(tmp_path / "poses")
    again = mf.load(tmp_path / "poses")
    assert torch.isfinite(again.freeze().log_prob(x)).all()
