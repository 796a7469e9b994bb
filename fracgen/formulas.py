"""The formulas: where the recipe of each lies, and what the command line says of it before it is imported."""

from typing import NamedTuple


class Formula(NamedTuple):
    """A formula.

    recipe: "module:class". baseline: what `fracgen baseline NAME` does, in a sentence; "" where there is no such
    command.
    """

    recipe: str
    baseline: str = ""


FORMULAS = {
    "1p-frac": Formula("fracgen.onepfrac:OnePFrac"),
    "fractaldb": Formula(
        "fracgen.fractaldb:FractalDB",
        "Render FractalDB: fractals with 25 weights, instances and flips; 1000 x 1000 images by default.",
    ),
    "ofdb": Formula("fracgen.fractaldb:OFDB", "Render OFDB: one image a category of FractalDB."),
    "visualatom": Formula(
        "fracgen.visualatom:VisualAtom",
        "Render VisualAtom: orbits of gray lines around a centre; 1000 x 1000 images by default.",
    ),
    "rcdb": Formula(
        "fracgen.rcdb:RCDB", "Render RCDB: radial contours in gray on white; 1000 x 1000 images by default."
    ),
    "exfractaldb": Formula(
        "fracgen.exfractaldb:ExFractalDB",
        "Render ExFractalDB, MV-FractalDB or 3D-OFDB: fractals of space from 12 sides; 1000 x 1740 images by default.",
    ),
    "multifractal": Formula(
        "fracgen.multifractal:MultiFractal",
        "Render coloured fractals, several to an image with several labels, or one; 1000 x 1000 images by default.",
    ),
    "perturbed": Formula("fracgen.perturbed:Perturbed"),
    "noise": Formula(
        "fracgen.noise:Noise",
        "Render noise, the structure-free controls: one image a class. The numbers are ours: none were published.",
    ),
    "photo": Formula("fracgen.photo.recipe:Photo"),
}
