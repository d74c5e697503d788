"""Small files of volumes, written for tests."""

import gzip

import numpy as np


def body(shape=(6, 10, 12), seed=0):
    """(slices upwards, rows to the back, columns to the left) int16, no axis like another."""
    values = np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)
    values[:, :3] += 300
    return values


def write_nifti(path, values, spacing=(3.0, 1.0, 2.0), order=(2, 1, 0), flips=(1, 1, 1), dtype=None):
    """A body (slices, rows, columns) saved with its axes exchanged and turned round, as its affine says."""
    import nibabel

    array = values if dtype is None else values.astype(dtype)
    # steps of slices, rows and columns towards right, front and head
    steps = np.diag([1.0, -1.0, -1.0])[:, ::-1] * np.array(spacing)[:, None]
    array = array.transpose(*order, *range(3, values.ndim))
    affine = np.eye(4)
    for axis, (own, flip) in enumerate(zip(order, flips, strict=True)):
        affine[:3, axis] = steps[own] * flip
        if flip < 0:
            array = np.flip(array, axis)
    image = nibabel.Nifti1Image(np.ascontiguousarray(array), affine)
    nibabel.save(image, path)
    return path


def write_nrrd(path, values, spacing=(3.0, 1.0, 2.0), encoding="raw", space="left-posterior-superior"):
    """A body as NRRD, the columns fastest."""
    first, second, third = spacing
    data = values.astype("<i2").tobytes()
    sign = -1 if "right" in space else 1
    front = -1 if "anterior" in space else 1
    header = (
        f"NRRD0004\n# a test\ntype: short\ndimension: 3\nspace: {space}\n"
        f"sizes: {values.shape[2]} {values.shape[1]} {values.shape[0]}\n"
        f"space directions: ({sign * third},0,0) (0,{front * second},0) (0,0,{first})\n"
        f"kinds: domain domain domain\nendian: little\nencoding: {encoding}\nspace origin: (0,0,0)\n\n"
    )
    path.write_bytes(header.encode() + (gzip.compress(data) if encoding == "gzip" else data))
    return path


def write_meta(path, values, spacing=(3.0, 1.0, 2.0), beside=False):
    """A body as MetaImage, in one file or two."""
    first, second, third = spacing
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        f"ElementSpacing = {third} {second} {first}\n"
        f"DimSize = {values.shape[2]} {values.shape[1]} {values.shape[0]}\nElementType = MET_SHORT\n"
        f"ElementDataFile = {path.stem + '.raw' if beside else 'LOCAL'}\n"
    )
    data = values.astype("<i2").tobytes()
    if beside:
        path.with_suffix(".raw").write_bytes(data)
    path.write_bytes(header.encode() + (b"" if beside else data))
    return path


def write_dicom(folder, values, spacing=(3.0, 1.0, 2.0), patient="P1", series="1.2.3", **more):
    """A body as a series, its files in no order, in CT's units (stored + 1024) * 1 - 1024."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    for number in np.random.default_rng(1).permutation(len(values)).tolist():
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, f"{series}.{number}"
        file.PatientID, file.Modality, file.SeriesInstanceUID = patient, "CT", series
        file.ImagePositionPatient = [0.0, 0.0, number * spacing[0]]
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.PixelSpacing = [spacing[1], spacing[2]]
        file.Rows, file.Columns = values.shape[1:]
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation = 15, 0
        file.RescaleSlope, file.RescaleIntercept = 1, -1024
        file.PixelData = (values[number].astype(np.int32) + 1024).astype("<u2").tobytes()
        for name, value in more.items():
            setattr(file, name, value)
        pydicom.dcmwrite(folder / f"{hash((number, 7)) % 1000:03d}-{number}.dcm", file)
    return folder
