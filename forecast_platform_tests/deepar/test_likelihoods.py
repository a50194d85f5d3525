from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast_platform.deepar import ContractError, SeriesSet, likelihoods
from forecast_platform.deepar.likelihoods import get_likelihood
from forecast_platform.deepar.randomness import keys_apart, series_keys, uniforms

NAMES = ["student-t", "gaussian", "negative-binomial", "beta"]


def params_of(name, n, seed=0):
    """Parameters in the ranges the network gives, as float64 tensors, and the frozen scipy distribution."""
    rng = np.random.default_rng(seed)
    if name == "student-t":
        p = [rng.uniform(2.05, 30, n), rng.normal(size=n), rng.uniform(0.05, 3, n)]
        dist = stats.t(p[0], p[1], p[2])
    elif name == "gaussian":
        p = [rng.normal(size=n), rng.uniform(0.05, 3, n)]
        dist = stats.norm(p[0], p[1])
    elif name == "negative-binomial":
        p = [rng.uniform(0.1, 50, n), rng.uniform(0.05, 3, n)]
        dist = stats.nbinom(1 / p[1], 1 / (1 + p[0] * p[1]))
    else:
        p = [rng.uniform(0.3, 8, n), rng.uniform(0.3, 8, n)]
        dist = stats.beta(p[0], p[1])
    return [torch.from_numpy(x) for x in p], dist


@pytest.mark.parametrize("name", NAMES)
def test_log_likelihood_equals_scipys(name):
    params, dist = params_of(name, 500)
    z = dist.rvs(random_state=np.random.default_rng(1)).astype(float)
    want = dist.logpmf(z) if name == "negative-binomial" else dist.logpdf(z)
    assert get_likelihood(name).log_prob(params, torch.from_numpy(z)).numpy() == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_student_ts_gradient_equals_numerical_differentiation():
    params, dist = params_of("student-t", 20)
    z = torch.from_numpy(dist.rvs(random_state=np.random.default_rng(1)))
    given = [p.requires_grad_() for p in params]
    assert torch.autograd.gradcheck(lambda *p: get_likelihood("student-t").log_prob(p, z), given)


def test_l1_is_minus_the_absolute_error():
    got = get_likelihood("deterministic-L1").log_prob([torch.tensor([1.0, 2.0])], torch.tensor([3.0, 1.5]))
    assert got.tolist() == [-2.0, -0.5]


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_scipys_distribution(name):
    family = get_likelihood(name)
    draws, one = 20_000, params_of(name, 4, seed=3)
    for k in range(4):
        params = [p[k].float().expand(draws) for p in one[0]]
        u = uniforms(np.array([7 + k], dtype=np.uint64), 1, draws, family.num_uniforms)
        got = family.sample(params, family.prepare(torch.from_numpy(u.reshape(family.num_uniforms, -1)))).numpy()
        if name == "negative-binomial":
            mean, alpha = (float(p[k]) for p in one[0])
            dist = stats.nbinom(1 / alpha, 1 / (1 + mean * alpha))
            assert np.array_equal(got, np.round(got))
            values = np.arange(0, 30)
            empirical = (got[:, None] <= values).mean(axis=0)
            assert np.abs(empirical - dist.cdf(values)).max() < 1.95 / draws**0.5  # Kolmogorov's bound at 0.001
        else:
            dist = {"student-t": stats.t, "gaussian": stats.norm, "beta": stats.beta}[name]
            assert stats.kstest(got, dist(*(float(p[k]) for p in one[0])).cdf).pvalue > 0.001


def test_the_compiled_draw_from_students_t_is_sample_of_parameters():
    family, draws = get_likelihood("student-t"), 5_000
    g = torch.Generator().manual_seed(0)
    raw, u = torch.randn(3, draws, generator=g) * 5, torch.rand(2, draws, generator=g).clamp(2.0**-24, 1 - 2.0**-24)
    raw[:, :6] = torch.tensor([-90.0, -20.0, -1e-3, 1e-3, 20.0, 90.0])
    u[0, :3] = torch.tensor([1 - 2.0**-24, 1 - 2.0**-20, 2.0**-24])
    base, scale, got = family.prepare(u), torch.ones(draws), torch.empty(draws)
    family.draw(raw, scale, base, got)
    _, loc, width = family.parameters(raw.double(), scale)
    want = family.sample(family.parameters(raw.double(), scale), [each.double() for each in base])
    away = (want - loc).abs() / width
    assert ((got - want).abs() / width < 1e-5 * (1 + away) + 1e-6 * loc.abs() / width).all()


def test_what_is_no_number_is_never_drawn_as_one():
    family, base = get_likelihood("student-t"), [torch.tensor([-0.5]), torch.tensor([0.5])]
    for at in range(3):
        raw, got = torch.zeros(3, 1), torch.zeros(1)
        raw[at] = torch.nan
        family.draw(raw, torch.ones(1), base, got)
        assert got.isnan().all()


def test_negative_binomial_draws_are_the_exact_inverse():
    mean, alpha = torch.tensor([0.2, 3.0, 40.0, 1e5]), torch.tensor([1.0, 0.3, 0.01, 0.5])
    family = get_likelihood("negative-binomial")
    for u in (1e-6, 0.01, 0.3, 0.5, 0.99, 0.99999):
        got = family.sample([mean, alpha], [torch.full((4,), u)])
        level = float(np.float32(u))
        want = stats.nbinom(1 / alpha.double(), 1 / (1 + mean.double() * alpha.double())).ppf(level)
        assert got.tolist() == want.tolist()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(u=st.floats(2.0**-24, 1 - 2.0**-24), log_mean=st.floats(-9, 6), log_alpha=st.floats(-9, 9))
def test_counting_up_finds_what_the_inverse_function_finds(u, log_mean, log_alpha):
    given = [np.full((2, 1), x) for x in (u, np.exp(log_mean), np.exp(log_alpha))]
    counted, inverted = (f(*given) for f in (likelihoods.nbinom_ppf, likelihoods.nbinom_inverse))
    assert counted.shape == (2, 1)
    size, p = 1 / given[2], 1 / (1 + given[1] * given[2])
    if (counted != inverted).any():  # both are right where u lies on a step, to rounding
        assert abs(counted - inverted).max() == 1
        assert stats.nbinom.cdf(np.minimum(counted, inverted), size, p) == pytest.approx(u, rel=1e-9)


@pytest.mark.parametrize("name", [*NAMES, "deterministic-L1"])
def test_extreme_network_outputs_give_finite_losses_draws_and_gradients(name):
    family = get_likelihood(name)
    raw = [torch.tensor([-80.0, 0.0, 80.0], requires_grad=True) for _ in range(family.num_outputs)]
    params = family.parameters(raw, torch.tensor([0.01, 1.0, 1e5]))
    loss = family.log_prob(params, torch.tensor([0.5, 0.5, 0.5]).round() if "nomial" in name else torch.full((3,), 0.5))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(r.grad).all() for r in raw)
    for u in (2.0**-24, 1 - 2.0**-24):
        draws = family.sample(params, family.prepare(torch.full((max(family.num_uniforms, 1), 3), u)))
        assert torch.isfinite(draws).all()


def test_parameters_leave_the_raw_outputs_and_the_scale_alone():
    family = get_likelihood("negative-binomial")
    raw, scale = [torch.ones(3), torch.ones(3)], torch.full((3,), 5.0)
    family.parameters(raw, scale)
    assert all((r == 1).all() for r in raw)
    assert (scale == 5).all()


def test_the_papers_scaling_of_counts():
    one, five = (
        get_likelihood("negative-binomial").parameters([torch.ones(1), torch.ones(1)], torch.tensor([s]))
        for s in (1.0, 4.0)
    )
    assert float(five[0] / one[0]) == pytest.approx(4.0)
    assert float(five[1] / one[1]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("negative-binomial", -1.0, "counts: whole numbers from 0"),
        ("negative-binomial", 1.5, "counts: whole numbers from 0"),
        ("beta", 0.0, "values above 0 and below 1"),
        ("beta", 1.0, "values above 0 and below 1"),
    ],
)
def test_values_outside_the_domain_are_named(name, value, rule):
    ok = 1.0 if name == "negative-binomial" else 0.5
    series = SeriesSet.from_arrays(["2010-02-05"] * 2, [[ok, np.nan], [ok, value]])
    with pytest.raises(ContractError, match=f"series 1: target value 1 is {value:g}; .*{rule}"):
        get_likelihood(name).check_domain(series)
    get_likelihood("student-t").check_domain(series)


def independent(a, b):
    """Whether two samples pass for independent uniforms: no linear and no circular dependence."""
    n = a.size
    waves = [np.corrcoef(a.ravel(), b.ravel())[0, 1], *(np.cos(2 * np.pi * (a + s * b)).mean() for s in (-1, 1))]
    return np.abs(waves).max() < 4 / n**0.5


@pytest.mark.parametrize(("kinds", "paths"), [(1, 100), (2, 100), (2, 7), (2, 1)])
def test_each_uniform_is_uniform_and_independent_of_other_steps_and_series(kinds, paths):
    u = uniforms(np.arange(8000 // paths, dtype=np.uint64), 12, paths, kinds)
    assert u.dtype == np.float32
    assert u.shape == (kinds, 12, 8000 // paths, paths)
    assert u.min() > 0
    assert u.max() < 1
    some = np.random.default_rng(0).integers(paths, size=u.shape[2])
    one_path = u[:, :, np.arange(u.shape[2]), some]  # (kinds, steps, series)
    for v in one_path:
        assert stats.kstest(v.ravel(), "uniform").pvalue > 0.001
        assert independent(v[1:], v[:-1])
        assert independent(v[:, 1:], v[:, :-1])
    if kinds == 2:
        assert independent(*one_path)
    # the same path of two series: a sum over series by path number must not be a sum of like with like
    assert independent(u[:, :, 1:], u[:, :, :-1])


def test_the_paths_of_one_series_and_step_share_the_interval_evenly():
    keys = np.arange(30, dtype=np.uint64)
    cells = np.sort(np.floor(uniforms(keys, 3, 64, 1)[0] * 64), axis=-1)
    assert np.array_equal(cells, np.broadcast_to(np.arange(64), cells.shape))
    radius, angle = uniforms(keys, 3, 100, 2)
    assert np.array_equal(radius[..., :50], radius[..., 50:])
    assert np.allclose((angle[..., :50] + 0.5) % 1, angle[..., 50:] % 1, atol=1e-6)
    # every box of the square holds about its share of the points: at most 4 of 50 points off
    for high in np.random.default_rng(0).random((50, 2)):
        inside = (radius < high[0])[..., :50] & ((angle + 0.5 * (angle < 0)) < high[1])[..., :50]
        assert np.abs(inside.mean(axis=-1) - high.prod()).max() < 4.5 / 50


def test_a_uniform_depends_on_its_own_counter_and_the_number_of_paths_only():
    keys = np.arange(5, dtype=np.uint64) * np.uint64(99)
    whole = uniforms(keys, 12, 100, 2)
    assert np.array_equal(uniforms(keys[2:4], 12, 100, 2), whole[:, :, 2:4])
    assert np.array_equal(uniforms(keys, 7, 100, 2), whole[:, :7])


def test_keys_apart_differ_and_number_0_is_the_key_itself():
    keys = np.arange(5, dtype=np.uint64)
    assert np.array_equal(keys_apart(keys, 0), keys)
    assert len({int(k) for number in range(4) for k in keys_apart(keys, number)}) == 20
    assert keys.tolist() == list(range(5))


def test_series_keys_follow_content():
    def key(target=(1.0, 2.0, np.nan), start="2010-02-05", cat=(0, 1), seed=0):
        return int(series_keys(SeriesSet.from_arrays([start], [target], [cat]), seed)[0])

    base = key()
    changed = [
        key(target=(2.0, 1.0, np.nan)),
        key(target=(1.0, 2.0)),
        key(start="2010-02-12"),
        key(cat=(1, 0)),
        key(seed=1),
    ]
    assert key(target=(1.0, 2.0, float("-nan"))) == base
    assert len({base, *changed}) == 6
