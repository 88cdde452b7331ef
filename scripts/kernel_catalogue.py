"""Write docs/kernels.md: every registered kernel, from its class and its docstring.

    python scripts/kernel_catalogue.py            # the page; --pictures draws docs/images/kernels/ anew as well

A docstring is a summary, ``.. math::`` blocks, prose with **Measure**, **Exactness**, **Range**, **Mean**, **Sampler**, the
sections Shapes, Args, Raises and References, and examples for doctest.
"""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mf_manifold.kernel import Kernel, kernel_families

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, PICTURES = DOCS / "kernels.md", DOCS / "images" / "kernels"
INTRODUCTION = """# Kernels

<!-- written by scripts/kernel_catalogue.py from the registry; edit the docstrings instead -->

A kernel is a family `q(x | w)` of normalised densities on a manifold. `mf.distribution(manifold, name, **parameters)` makes one
a torch distribution, `mf.fit(manifold, name, x)` fits one, `mf.kernel_for(manifold, point_shape, name)` gives the object that
mixtures and estimators use, `mf.registered_kernels()` lists all. [Facts about kernels](kernel-facts.md) has the surprises.

*Base measure* is what the formula is written for; results are with respect to the Riemannian volume unless another
[measure](measures.md) is named. *Exactness*: "closed form" needs special functions only; "series" and "quadrature" are sums
that are cut below the rounding of the dtype, "numeric normaliser" computes one number for each parameter that way;
"approximate" would say that a law is not exact. *Mean* names the mean that `dist.mean` gives, *pathwise* whether samples carry
gradients, *product* whether a mixture of them is one matrix product. `KernelDensity` and `MarginalFlow` take any kernel with
bumps.

Shapes: `*B` is the batch; D the ambient dimension of a sphere, d = D - 1; p the size of a matrix, m = p(p+1)/2.
"""


def anchor(manifold: str, name: str) -> str:
    """Anchor of a kernel's section."""
    return f"{manifold}-{name}".lower().replace("_", "-")


def yes(flag: bool) -> str:
    """A cell of the table."""
    return "yes" if flag else ""


def table(families: list[tuple[str, type[Kernel], bool]]) -> Iterator[str]:
    """The overview: one row a kernel."""
    yield "| manifold | kernel | parameters | base measure | exactness | mean | pathwise | product |"
    yield "|---|---|---|---|---|---|---|---|"
    for manifold, cls, default in families:
        name = cls.name
        parameters = ", ".join(f"`{p}`" for p in cls.parameter_names) or "none"
        link = f"[`{name}`](#{anchor(manifold, name)})" + (" (default)" if default else "")
        pathwise = "varies" if isinstance(cls.has_rsample, property) else yes(cls.has_rsample)
        product = yes(cls.bilinear is not Kernel.bilinear)
        mean = cls.mean_kind or ""
        parameters = parameters.replace("|", "or")
        yield f"| {manifold} | {link} | {parameters} | {cls.base_measure} | {cls.exactness} | {mean} | {pathwise} | {product} |"


def to_markdown(docstring: str) -> str:
    """A docstring in the layout above as Markdown."""
    text, _, examples = docstring.partition("\n>>> ")
    text = re.sub(r"\.\. math::\s*\n?((?:.+\n?)+)", lambda m: "$$\n" + _dedent(m[1]) + "\n$$\n", text)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"(?<![`\w])\((?=[^()`]*\*)[^()`]*\)", r"`\g<0>`", text)  # (*B,D) is no emphasis
    text = re.sub(r"^(Shapes|Units): ", r"**\1**: ", text, flags=re.MULTILINE)
    text = re.sub(r"^(Raises|References|Args):\n((?:    .*\n?|\n)+)", _section, text, flags=re.MULTILINE)
    code = f"\n```pycon\n>>> {examples.rstrip()}\n```\n" if examples else ""
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n" + code


def _dedent(block: str) -> str:
    return inspect.cleandoc(block).strip()


def _section(match: re.Match[str]) -> str:
    entries = re.split(r"\n(?! )", textwrap.dedent(match[2]).strip())
    items = "\n".join("- " + re.sub(r"\s+", " ", entry.strip()) for entry in entries if entry.strip())
    return f"**{match[1]}**:\n\n{items}\n\n"


def section(manifold: str, name: str, cls: type[Kernel]) -> str:
    """The section of one kernel."""
    picture = PICTURES / f"{manifold}-{name}.png"
    shown = f"![density]({picture.relative_to(DOCS)})\n\n" if picture.exists() else ""
    title = f'<a id="{anchor(manifold, name)}"></a>\n\n### `{name}` on {manifold}\n\n'
    return f"{title}{shown}{to_markdown(inspect.getdoc(cls) or '')}"


def page() -> str:
    """The whole page."""
    families = kernel_families()
    parts, seen = [INTRODUCTION, "\n".join(table(families)) + "\n"], dict[type[Kernel], str]()
    heading = ""
    for manifold, cls, _ in families:
        name = cls.name
        if manifold != heading:
            heading = manifold
            parts.append(f"## {manifold}\n")
        if cls in seen:
            parts.append(f'<a id="{anchor(manifold, name)}"></a>\n\n### `{name}` on {manifold}\n\nAs on {seen[cls]}.\n')
        else:
            seen[cls] = manifold
            parts.append(section(manifold, name, cls))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true")
    if parser.parse_args().pictures:
        from kernel_pictures import draw_all

        draw_all(PICTURES)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
