"""Small fMRI files for the tests, by nibabel's own writers."""

import nibabel
import numpy as np
from nibabel import cifti2

SHAPE = (6, 6, 4)


def series(regions=5, volumes=80, seed=0):
    """BOLD-like: slow, with a mean of thousands."""
    walk = np.random.default_rng(seed).standard_normal((regions, volumes + 3)) * 30
    smooth = sum(walk[:, start : start + volumes] for start in range(4))
    return smooth + 9000 + 100 * np.arange(regions)[:, None]


def write_atlas(path, regions=5, scale=1):
    """A label image of slabs along the first axis, numbered 10, 20 ...; 0 in the first."""
    values = np.zeros(SHAPE, np.int16)
    for number in range(regions):
        values[number + 1] = 10 * (number + 1)
    for axis in range(3):
        values = values.repeat(scale, axis=axis)
    affine = np.diag([4.0 / scale] * 3 + [1.0])
    affine[:3, 3] = -10 + 2 * (1 / scale - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def write_volumes(path, values, step=2.0, unit="sec", slabs=None):
    """Volumes whose slab n + 1 is region n, each voxel with an offset that a region has not."""
    bold = np.zeros((*SHAPE, values.shape[1]), np.float32)
    offset = np.random.default_rng(1).standard_normal(SHAPE[1:])[..., None] * 50
    for number, row in enumerate(values):
        bold[number + 1] = row + offset - offset.mean()
    if slabs is not None:
        bold = bold[:slabs]
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -10
    image = nibabel.Nifti1Image(bold, affine)
    image.header.set_xyzt_units("mm", unit)
    image.header.set_zooms((4.0, 4.0, 4.0, step))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def cortex(vertices=12, start=0):
    """Grayordinates of a piece of the left cortex, and some voxels of a thalamus."""
    surface = cifti2.BrainModelAxis.from_surface(
        np.arange(start, start + vertices), 40, "CIFTI_STRUCTURE_CORTEX_LEFT"
    )
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1] = True
    return surface + cifti2.BrainModelAxis.from_mask(mask, "CIFTI_STRUCTURE_THALAMUS_LEFT", np.eye(4))


def write_dense(path, values, step=0.72):
    """(time, grayordinates) values over `cortex`."""
    axis = cifti2.SeriesAxis(0, step, len(values))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(cifti2.Cifti2Image(values.astype(np.float32), (axis, cortex())), path)
    return path


def write_labels(path, numbers, axis):
    """A .dlabel.nii of these numbers, each named after itself."""
    table = {int(n): (f"area {n}", (1, 0, 0, 1)) for n in np.unique(numbers)} | {0: ("???", (0, 0, 0, 0))}
    image = cifti2.Cifti2Image(
        np.asarray(numbers, np.float32)[None], (cifti2.LabelAxis(["labels"], [table]), axis)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_parcels(path, values, step=0.72):
    """(regions, time) values as .ptseries.nii."""
    names = [f"P{number}" for number in range(len(values))]
    axis = cortex()
    parcels = cifti2.ParcelsAxis.from_brain_models(
        [(name, axis[number : number + 1]) for number, name in enumerate(names)]
    )
    series_axis = cifti2.SeriesAxis(0, step, values.shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(cifti2.Cifti2Image(values.T.astype(np.float32), (series_axis, parcels)), path)
    return path
