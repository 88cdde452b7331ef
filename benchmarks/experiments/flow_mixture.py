"""Whether a variational mixture of flows finds clusters, and what it is worth as a density, against one flow and EM mixtures.

Data. Pinwheels of five and of three arms and two circles, whose densities are known (`benchmarks/problems/labelled.py`; the
angle of an arm grows with the exponential of the radius, so that the density has a closed form): 4000 points, of which a tenth
only selects a model, and 5000 test points. scikit-learn's digits: the first 16 principal components of dequantised pixels,
divided by the standard deviation of the first; 1300 points to fit, 140 to select with, 357 to test.

Protocol. Variational mixtures have as many components as there are classes, each with affine couplings (pinwheels: 4
of two layers of 8; digits: 2 of one layer of 16) or splines (circles: 2 of one layer of 16), and an encoder of two layers of
32. They begin at k-means clusters, with labels at those of the nearest labelled point along the data; "random start" does
neither, and has as many more steps. "exact likelihood" is the same model trained by the exact log-likelihood, whose gradient
is that of soft EM. "one flow" has the same layers in twice the number, as wide as it takes to have as many parameters as
components and encoder together, and four times as many steps. EM mixtures have full covariances and as many components as
there are classes, or 20; the marginal flow has 256 normal components. With labels, 32 of the points to fit to circles and 100
of the digits have them. "labels along the data" is the classifier that labelled fits begin with. Five arms and circles with
all seeds, the others with the first three. One thread, CPU seconds of the fit. Reference measure: area; volume of the
principal components.

How to read the table. Means over the seeds, and standard errors. `nll` is the exact mean negative log density of the test
points in nats, never a bound; `kl` its paired difference to the true density, `difference` to the variational mixture.
`accuracy` is that of the classes by exact responsibilities, components matched to classes as suits best (not with labels,
which name them), `accuracy_median` its median, `nmi` the normalised mutual information. `gap` is log-likelihood minus bound on
held-out points. `usage_entropy` is that of the components' shares, 1 if they are equal, and `collapsed` counts the seeds in
which a component has less than a tenth of an equal share. `leakage` is the share of a model's samples where the true density is
below its 0.1 % quantile: 0.001 without bridges between modes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import geoopt
import torch
from torch import Tensor, nn

import mf_manifold as mf
from benchmarks.problems.labelled import LAWS, Split, digits, split_of
from mf_manifold.losses import forward_kl
from mf_manifold.models import Flow, VariationalMixture
from mf_manifold.models.labelled import spread_labels

if TYPE_CHECKING:
    from benchmarks.harness import Report

PLANE = geoopt.Euclidean(ndim=1)
OURS = "variational mixture"
UNUSED = 0.1  # of an equal share
CELLS, DRAWN = 90, (OURS, "variational mixture, 32 labels", "one flow", "KernelMixture, full")
HALF = {"pinwheel, 5 arms": 1.1, "pinwheel, 3 arms": 1.1, "two circles": 1.1}


@dataclass(frozen=True)
class Case:
    """A data set with the sizes of its fits."""

    name: str
    classes: int
    labelled: int
    split: Callable[[int], Split]
    flow: dict[str, Any]
    more: int  # components of a second EM mixture
    steps: int
    seeds: int = 5


@dataclass
class Fit:
    """What a method gives: a density, probabilities of components, numbers of its own."""

    log_prob: Callable[[Tensor], Tensor] | None = None
    sample: Callable[..., Tensor] | None = None
    proba: Callable[[Tensor], Tensor] | None = None
    named: bool = False  # whether component and class have one name
    numbers: dict[str, float] = field(default_factory=dict)


Method = Callable[[Case, Split, int], Fit]


def run(report: Report) -> None:
    """A table of all data and methods, and a picture of the laws of the plane."""
    torch.set_num_threads(1)
    pictures: dict[str, dict[str, Any]] = {}
    for case in cases(report.quick):
        found = {name: scores(report, case, name, method) for name, method in methods(case).items()}
        for name, of_seeds in found.items():
            report.row(**columns(case, name, of_seeds, found[OURS]))
        pictures[case.name] = {name: of_seeds[0]["picture"] for name, of_seeds in found.items() if "picture" in of_seeds[0]}
    draw(report, {name: panels for name, panels in pictures.items() if panels})


def cases(quick: bool) -> list[Case]:
    n, test = (200, 200) if quick else (4000, 5000)
    more = 6 if quick else 20
    affine = {"layers": "affine", "transforms": 4, "hidden": (8, 8)}
    spline = {"layers": "spline", "transforms": 2, "hidden": (16,)}
    small = {"layers": "affine", "transforms": 2, "hidden": (16,)}
    steps = 2 if quick else 300
    five, three, circles = (partial(split_of, make(), n, test) for make in LAWS.values())
    images = partial(digits, dimensions=3, n=150) if quick else digits
    return [
        Case("pinwheel, 5 arms", 5, 0, five, affine, more, steps),
        Case("two circles", 2, 32, circles, spline, more, steps),
        Case("pinwheel, 3 arms", 3, 0, three, affine, more, steps, seeds=3),
        Case("digits", 10, 100, images, small, 2 * more if quick else more, steps, seeds=3),
    ]


def methods(case: Case) -> dict[str, Method]:
    """The rows of a data set."""
    found: dict[str, Method] = {OURS: variational}
    if case.labelled:
        found[f"{OURS}, {case.labelled} labels"] = partial(variational, labelled=case.labelled)
        found[f"labels along the data, {case.labelled} labels"] = along_the_data
    if case.name == "two circles":
        found[f"{OURS}, 32 labels, random start"] = partial(variational, labelled=32, start="random")
    if case.name == "pinwheel, 5 arms":
        found[f"{OURS}, random start"] = partial(variational, start="random")
        found["exact likelihood"] = partial(variational, objective=forward_kl)
    return {
        **found,
        "one flow": one_flow,
        "KernelMixture, full": partial(em, n_components=case.classes),
        f"KernelMixture, full, {case.more} components": partial(em, n_components=case.more),
        "MarginalFlow": marginal,
    }


def variational(case: Case, split: Split, seed: int, labelled: int = 0, start: str = "clusters", objective: Any = None) -> Fit:
    width = split.train.shape[1]
    parts = [Flow(PLANE, (width,), **case.flow) for _ in range(case.classes)]
    model = VariationalMixture(parts, hidden=(32, 32), start=start)
    labels = None if not labelled else torch.where(torch.arange(len(split.train)) < labelled, split.train_labels, -1)
    objectives = {} if objective is None else {"objective": objective}
    steps = case.steps * (2 if start == "random" else 1)  # the warm start of the others has as many
    train(model, case, split, seed, steps, labels=labels, **objectives)
    numbers = {"parameters": count(model), "usage_entropy": entropy(model.usage(split.test))}
    numbers["least_share"] = float(model.usage(split.test).min())
    if objective is None:
        numbers["gap"] = best(model)["gap"]
    law = model.freeze()
    return Fit(law.log_prob, law.sample, law.responsibilities, bool(labelled), numbers)


def along_the_data(case: Case, split: Split, seed: int) -> Fit:
    known = slice(0, case.labelled)

    def proba(x: Tensor) -> Tensor:
        found = spread_labels(torch.cat([x, split.train]), split.train[known], split.train_labels[known])[: len(x)]
        return nn.functional.one_hot(found, case.classes)

    return Fit(proba=proba, named=True)


def one_flow(case: Case, split: Split, seed: int) -> Fit:
    width = split.train.shape[1]
    whole = VariationalMixture([Flow(PLANE, (width,), **case.flow) for _ in range(case.classes)], hidden=(32, 32))
    layers, hidden = 2 * case.flow["transforms"], len(case.flow["hidden"])
    options = {**case.flow, "transforms": layers}
    wide = next(
        w for w in range(2, 1000) if count(Flow(PLANE, (width,), **options | {"hidden": (w,) * hidden})) >= count(whole)
    )
    model = Flow(PLANE, (width,), **options | {"hidden": (wide,) * hidden})
    train(model, case, split, seed, steps=4 * case.steps)  # which takes about as long as the mixture
    law = model.freeze()
    return Fit(law.log_prob, law.sample, numbers={"parameters": count(model)})


def em(case: Case, split: Split, seed: int, n_components: int) -> Fit:
    model = mf.KernelMixture(PLANE, split.train.shape[1:], n_components, kernel_options={"covariance": "full"})
    law = model.fit(torch.cat([split.train, split.validation]).double(), seed=seed, progress=False).freeze()
    width = split.train.shape[1]
    numbers = {"parameters": float(law.n_components * (1 + width + width * (width + 1) // 2))}
    if law.n_components != case.classes:
        return Fit(lambda x: law.log_prob(x.double()), law.sample, numbers=numbers)

    def proba(x: Tensor) -> Tensor:
        return law.component_log_prob(x.double()).softmax(-1)

    shares = proba(split.test).mean(0)
    numbers |= {"usage_entropy": entropy(shares), "least_share": float(shares.min())}
    return Fit(lambda x: law.log_prob(x.double()), law.sample, proba, numbers=numbers)


def marginal(case: Case, split: Split, seed: int) -> Fit:
    width = split.train.shape[1]
    model = mf.MarginalFlow(PLANE, (width,), n_components=256, bandwidth=0.25, shared_shape=True)
    train(model, case, split, seed, learning_rate=3e-3)
    law = model.freeze(4096)
    return Fit(law.log_prob, law.sample, numbers={"parameters": count(model)})


def train(model: Any, case: Case, split: Split, seed: int, steps: int | None = None, **options: Any) -> None:
    settings = {"max_steps": steps or case.steps, "learning_rate": 1e-2, "batch_size": 512, "patience": 50}
    labels = options.pop("labels", None)
    given = () if labels is None else (labels,)
    model.fit(split.train, *given, validation=split.validation, seed=seed, progress=False, **{**settings, **options})


def best(model: Any) -> dict[str, float]:
    """The history's entry of the weights that were kept."""
    return dict(min(model.history, key=lambda entry: entry["validation_loss"]))


def count(model: nn.Module) -> float:
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))


def entropy(shares: Tensor) -> float:
    """Relative to that of equal shares."""
    return float(torch.special.entr(shares).sum()) / math.log(len(shares))


# ------------------------------------------------------------------------------------------------------------------- scores


def scores(report: Report, case: Case, name: str, method: Method) -> list[dict[str, Any]]:
    """The numbers of every seed; the first has what a picture needs."""

    def score(seed: int) -> dict[str, Any]:
        split, start = case.split(seed), time.process_time()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fit = method(case, split, seed)
        seconds = time.process_time() - start
        with torch.no_grad():
            numbers = {**fit.numbers, **measured(case, split, fit), "cpu_seconds": seconds}
            if seed == report.seeds[0] and name in DRAWN and case.name in HALF:
                numbers["picture"] = picture(HALF[case.name], fit)
        return numbers

    return [report.once(f"{case.name}; {name}; seed {seed}", partial(score, seed)) for seed in report.seeds[: case.seeds]]


def measured(case: Case, split: Split, fit: Fit) -> dict[str, float]:
    """Density, classes and leakage on the test points."""
    found: dict[str, float] = {}
    if fit.log_prob is not None:
        found["nll"] = -float(fit.log_prob(split.test).double().mean())
        if split.log_prob is not None:
            true = split.log_prob(split.test)
            found["kl"] = found["nll"] + float(true.mean())
            assert fit.sample is not None
            drawn = fit.sample((len(split.test),), torch.Generator().manual_seed(0))
            found["leakage"] = float((split.log_prob(drawn) < true.quantile(0.001)).double().mean())
    if fit.proba is not None:
        found |= agreement(fit.proba(split.test).argmax(-1), split.test_labels, case.classes, fit.named)
    return found


def agreement(found: Tensor, labels: Tensor, classes: int, named: bool) -> dict[str, float]:
    """Accuracy, under the best matching unless clusters have the names of classes, and normalised mutual information."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import normalized_mutual_info_score

    table = torch.zeros(classes, classes).index_put_((found, labels), torch.ones(len(labels)), accumulate=True)
    rows, names = (range(classes), range(classes)) if named else linear_sum_assignment(-table.numpy())
    right = float(table[list(rows), list(names)].sum())
    nmi = float(normalized_mutual_info_score(labels.numpy(), found.numpy()))
    return {"accuracy": right / len(labels), "nmi": nmi}


def columns(case: Case, name: str, found: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """A line of the table from the numbers of the seeds."""
    line: dict[str, Any] = {"data": case.name, "method": name, "seeds": len(found), "parameters": ""}
    if "parameters" in found[0]:
        line["parameters"] = statistics.mean(f["parameters"] for f in found)
    if "nll" in found[0]:
        line |= mean("nll", found)
        paired = [{"difference": f["nll"] - o["nll"]} for f, o in zip(found, ours, strict=True)]
        line |= mean("difference", paired)
    for key in ("kl", "leakage", "accuracy", "nmi", "gap", "usage_entropy"):
        if key in found[0]:
            line |= mean(key, found) if key in ("kl", "accuracy") else {key: statistics.mean(f[key] for f in found)}
    if "accuracy" in found[0]:
        line["accuracy_median"] = statistics.median(f["accuracy"] for f in found)
    if "least_share" in found[0]:
        line["collapsed"] = sum(f["least_share"] < UNUSED / case.classes for f in found)
    return line | {"cpu_seconds": statistics.mean(f["cpu_seconds"] for f in found)}


def mean(name: str, found: list[dict[str, Any]]) -> dict[str, float]:
    values = [f[name] for f in found]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {name: statistics.mean(values), f"{name}_se": error}


# ------------------------------------------------------------------------------------------------------------------ pictures


def picture(half: float, fit: Fit) -> dict[str, Any]:
    """Density on a grid, and the likeliest component there, small enough for a file of numbers."""
    axis = torch.linspace(-half, half, CELLS)
    grid = torch.cartesian_prod(axis, axis)
    assert fit.log_prob is not None
    density = fit.log_prob(grid).exp().reshape(CELLS, CELLS).T
    found: dict[str, Any] = {"density": [[round(float(v), 3) for v in row] for row in density]}
    if fit.proba is not None:
        found["component"] = fit.proba(grid).argmax(-1).reshape(CELLS, CELLS).T.tolist()
    return found


def draw(report: Report, pictures: dict[str, dict[str, Any]]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    names = [name for name in DRAWN if any(name in panels for panels in pictures.values())]
    figure = Figure(figsize=(1.5 * len(names), 1.6 * len(pictures)), layout="constrained")
    panels = figure.subplots(len(pictures), len(names), squeeze=False)
    colours = torch.tensor(matplotlib.colormaps["tab10"](range(10)))[:, :3].float()
    for row, (problem, found) in zip(panels, pictures.items(), strict=True):
        top = max(max(map(max, found[OURS]["density"])), 1e-9)
        for axes, name in zip(row, names, strict=True):
            axes.set_axis_off()
            if name not in found:
                continue
            shade = (torch.tensor(found[name]["density"]) / top).clamp(0, 1).sqrt().unsqueeze(-1)
            component = found[name].get("component")
            colour = torch.zeros(3) if component is None else colours[torch.tensor(component)]
            axes.imshow((1 - shade * (1 - colour)).numpy(), origin="lower")
            axes.set_title(f"{problem}\n{name}", fontsize=5)
    report.figure(figure, "densities", "Fitted densities of the first seed; colours are the likeliest components.")
