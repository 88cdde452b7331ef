"""Simulate alanine dipeptide (ACE-ALA-NME) at 300 K and save its backbone torsions phi and psi.

Force field amber14 with OBC2 implicit solvent (no salt), bonds to hydrogen constrained, hydrogens of 3 amu,
Langevin middle integrator with 4 fs steps and 1/ps friction, double precision. The barrier between phi < 0
and phi > 0 is crossed too rarely at 300 K, so three copies run at 300, 420 and 600 K and exchange
configurations by the Metropolis rule of temperature replica exchange (Sugita & Okamoto, Chem. Phys. Lett.
314 (1999) 141), which leaves the 300 K ensemble unbiased. Only the 300 K copy is saved, in time order.

OpenMM and tqdm are needed by this script alone: ``pip install openmm tqdm``.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openmm  # type: ignore[import-untyped]
from openmm import app, unit
from tqdm import tqdm

Array = npt.NDArray[np.float64]

TEMPERATURES = (300.0, 420.0, 600.0)  # kelvin
PAIRS = len(TEMPERATURES) - 1
STEP_PS = 0.004
FRICTION = 1.0  # 1/ps
EXCHANGE_STEPS = 400
INTERVAL_PS = STEP_PS * EXCHANGE_STEPS * PAIRS
BURN_IN_FRAMES = 500
GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K
FORCE_FIELD = ("amber14-all.xml", "implicit/obc2.xml")
OBC_OFFSET = 0.009  # nm, dielectric offset of the OBC radii
SOLVENT_DIELECTRIC = 78.5

# L-alanine dipeptide with ideal bonds, angles and trans peptide bonds, phi = -80 and psi = 80 degrees.
HEAVY_ATOMS = """\
ATOM      1  CH3 ACE A   1       1.522   0.000   0.000  1.00  0.00           C
ATOM      2  C   ACE A   1       0.000   0.000   0.000  1.00  0.00           C
ATOM      3  O   ACE A   1      -0.624  -1.059   0.000  1.00  0.00           O
ATOM      4  N   ALA A   2      -0.598   1.194   0.000  1.00  0.00           N
ATOM      5  CA  ALA A   2      -2.041   1.328   0.000  1.00  0.00           C
ATOM      6  CB  ALA A   2      -2.430   2.697   0.550  1.00  0.00           C
ATOM      7  C   ALA A   2      -2.584   1.129  -1.408  1.00  0.00           C
ATOM      8  O   ALA A   2      -2.883   2.097  -2.103  1.00  0.00           O
ATOM      9  N   NME A   3      -2.712  -0.132  -1.826  1.00  0.00           N
ATOM     10  C   NME A   3      -3.218  -0.454  -3.146  1.00  0.00           C
END
"""
PHI = (("ACE", "C"), ("ALA", "N"), ("ALA", "CA"), ("ALA", "C"))
PSI = (("ALA", "N"), ("ALA", "CA"), ("ALA", "C"), ("NME", "N"))


def build_molecule(force_field: app.ForceField) -> app.Modeller:
    """Return the molecule with hydrogens."""
    heavy = app.PDBFile(io.StringIO(HEAVY_ATOMS))
    molecule = app.Modeller(heavy.topology, heavy.positions)
    molecule.addHydrogens(force_field, platform=openmm.Platform.getPlatform("Reference"))
    return molecule


def with_native_obc(system: openmm.System) -> openmm.System:
    """Return a copy whose OBC2 term is OpenMM's compiled force: the same energy, about 40 times faster."""
    fast = openmm.XmlSerializer.clone(system)
    (index,) = [i for i, force in enumerate(fast.getForces()) if isinstance(force, openmm.CustomGBForce)]
    custom, native = fast.getForce(index), openmm.GBSAOBCForce()
    native.setSolventDielectric(SOLVENT_DIELECTRIC)
    for atom in range(custom.getNumParticles()):
        charge, offset_radius, scaled_radius = custom.getParticleParameters(atom)
        native.addParticle(charge, offset_radius + OBC_OFFSET, scaled_radius / offset_radius)
    fast.removeForce(index)
    fast.addForce(native)
    return fast


def make_context(system: openmm.System, temperature: float, seed: int) -> openmm.Context:
    """Return a context on the deterministic double-precision platform."""
    integrator = openmm.LangevinMiddleIntegrator(temperature, FRICTION, STEP_PS)
    integrator.setRandomNumberSeed(seed)
    return openmm.Context(system, integrator, openmm.Platform.getPlatform("Reference"))


def energy(state: openmm.State) -> float:
    """Return the potential energy in kJ/mol."""
    return float(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))


def start_replicas(
    molecule: app.Modeller, force_field: app.ForceField, seeds: list[int]
) -> list[openmm.Context]:
    """Return minimised contexts with thermal velocities, one per temperature."""
    system = force_field.createSystem(
        molecule.topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, hydrogenMass=3 * unit.amu,
        removeCMMotion=False, solventDielectric=SOLVENT_DIELECTRIC,
    )
    fast, energies, contexts = with_native_obc(system), [], []
    for candidate in (system, fast):
        context = make_context(candidate, TEMPERATURES[0], 1)
        context.setPositions(molecule.positions)
        energies.append(energy(context.getState(energy=True)))
    if abs(energies[0] - energies[1]) > 1e-3:
        raise RuntimeError(f"the two OBC2 forces must agree within 1e-3 kJ/mol, got {energies};"
                           " check OBC_OFFSET and SOLVENT_DIELECTRIC")
    for temperature, seed in zip(TEMPERATURES, seeds, strict=True):
        context = make_context(fast, temperature, seed)
        context.setPositions(molecule.positions)
        openmm.LocalEnergyMinimizer.minimize(context)
        context.setVelocitiesToTemperature(temperature, seed)
        contexts.append(context)
    return contexts


def try_exchange(contexts: list[openmm.Context], low: int, rng: np.random.Generator) -> bool:
    """Swap replicas ``low`` and ``low + 1`` with probability min(1, exp((b_i - b_j)(E_i - E_j)))."""
    pair, temperatures = contexts[low : low + 2], TEMPERATURES[low : low + 2]
    states = [context.getState(positions=True, velocities=True, energy=True) for context in pair]
    inverse = [1.0 / (GAS_CONSTANT * temperature) for temperature in temperatures]
    log_ratio = (inverse[0] - inverse[1]) * (energy(states[0]) - energy(states[1]))
    if math.log1p(-rng.random()) > log_ratio:
        return False
    scale = math.sqrt(temperatures[1] / temperatures[0])
    for context, state, factor in zip(pair, reversed(states), (1.0 / scale, scale), strict=True):
        context.setPositions(state.getPositions(asNumpy=True))
        context.setVelocities(state.getVelocities(asNumpy=True) * factor)
    return True


def sample(contexts: list[openmm.Context], frames: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return positions (frames, atoms, 3) in nm of the coldest replica and each pair's acceptance."""
    trajectory, accepted = [], np.zeros(PAIRS)
    for frame in tqdm(range(-BURN_IN_FRAMES, frames), unit="frame", mininterval=1.0):
        for low in range(PAIRS):
            for context in contexts:
                context.getIntegrator().step(EXCHANGE_STEPS)
            accepted[low] += try_exchange(contexts, low, rng)
        if frame >= 0:
            positions = contexts[0].getState(positions=True).getPositions(asNumpy=True)
            trajectory.append(positions.value_in_unit(unit.nanometer))
    return np.stack(trajectory), accepted / (frames + BURN_IN_FRAMES)


def torsion(points: Array) -> npt.NDArray[np.float32]:
    """Return the signed dihedral angle in radians of points (..., 4, 3)."""
    first, axis, last = np.moveaxis(np.diff(points, axis=-2), -2, 0)
    left, right = np.cross(first, axis), np.cross(axis, last)
    sine = np.linalg.norm(axis, axis=-1) * (first * right).sum(-1)
    angle = np.arctan2(sine, (left * right).sum(-1))
    # float32(pi) exceeds pi: without the clip an angle within rounding of +-pi would leave [-pi, pi).
    limit = np.nextafter(np.float32(math.pi), np.float32(0.0))
    return np.asarray(np.clip(angle.astype(np.float32), -limit, limit))


def backbone_angles(topology: app.Topology, trajectory: Array) -> npt.NDArray[np.float32]:
    """Return phi and psi (frames, 2) in radians."""
    index = {(atom.residue.name, atom.name): atom.index for atom in topology.atoms()}
    return np.stack([torsion(trajectory[:, [index[key] for key in keys]]) for keys in (PHI, PSI)], axis=-1)


def save(path: Path, arrays: dict[str, npt.ArrayLike]) -> None:
    """Write the npz file whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as stream:
        try:
            np.savez_compressed(stream, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
            stream.close()
            os.chmod(stream.name, 0o644)
            os.replace(stream.name, path)
        except BaseException:
            os.unlink(stream.name)
            raise


def main() -> None:
    """Run the simulation from the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=20_000, help=f"frames, one per {INTERVAL_PS:g} ps")
    parser.add_argument("--seed", type=int, default=0, help="non-negative seed of all random numbers")
    parser.add_argument("--output", type=Path, default=Path("mf_manifold/data/alanine_dipeptide.npz"))
    options = parser.parse_args()
    if options.frames < 1 or options.seed < 0:
        parser.error(f"--frames must be >= 1 and --seed >= 0, got {options.frames} and {options.seed}")
    if not options.output.parent.is_dir():
        parser.error(f"--output must lie in an existing folder, got {options.output}; create it first")
    rng = np.random.default_rng(options.seed)
    random.seed(options.seed)  # Modeller.addHydrogens draws from it
    force_field = app.ForceField(*FORCE_FIELD)
    molecule = build_molecule(force_field)
    seeds = rng.integers(1, 2**31 - 1, size=len(TEMPERATURES)).tolist()
    trajectory, acceptance = sample(start_replicas(molecule, force_field, seeds), options.frames, rng)
    save(options.output, {
        "angles": backbone_angles(molecule.topology, trajectory),
        "temperature_K": TEMPERATURES[0],
        "interval_ps": INTERVAL_PS,
        "force_field": " + ".join(FORCE_FIELD),
        "openmm_version": openmm.version.version,
        "seed": options.seed,
        "replica_temperatures_K": TEMPERATURES,
        "exchange_acceptance": acceptance,
    })
    rates = ", ".join(f"{rate:.3f}" for rate in acceptance)
    print(f"wrote {options.output}: {options.frames} frames, exchange acceptance {rates}")


if __name__ == "__main__":
    main()
