"""Eigenvalues for large images, at a cost that does not grow with the cube of their size."""

# N = examples, C/H/W = image, F = frequencies of a real transform, d = C * H * W

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CHUNK_NUMBERS = 1 << 21
"""Numbers that are transformed at a time: 16 MB in float64, and as much in frequency space."""


def power_spectrum_eigenvalues(images: NDArray[np.float32]) -> Array:
    """Eigenvalues ``[d]`` of ``images[N, C, H, W]`` as a shift-invariant process sees them.

    The mean image is removed; at every spatial frequency, what is left has a covariance of C x C
    between the channels, whose eigenvalues these are. A linear-loss formula over them is the
    exact loss, on these very images, of the best linear denoiser that treats every frequency
    apart (any shift-invariant one does), so it is an upper bound of the loss over the eigenvalues
    of the full covariance, and equal to it for stationary images. Their sum is the total
    variance. Costs N d log(H W) + H W C^3.
    """
    num_images, num_channels, height, width = images.shape
    mean = images.mean(axis=0, dtype=np.float64)
    num_frequencies = height * (width // 2 + 1)
    spectrum = np.zeros((num_frequencies, num_channels, num_channels), dtype=np.complex128)
    size = max(1, CHUNK_NUMBERS // mean.size)
    for start in range(0, num_images, size):
        transform = np.fft.rfft2(images[start : start + size] - mean, norm="ortho")
        # [F, C, n]: the channels of every frequency, image by image
        channels = transform.reshape(-1, num_channels, num_frequencies).transpose(2, 1, 0)
        spectrum += channels @ channels.conj().transpose(0, 2, 1)
    eigenvalues = np.linalg.eigvalsh(spectrum / num_images)
    # A real transform leaves out the mirror images of the columns other than 0 and W / 2.
    column = np.arange(num_frequencies) % (width // 2 + 1)
    count = np.where((column == 0) | (2 * column == width), 1, 2)
    repeated: Array = np.repeat(eigenvalues, count, axis=0).ravel()
    return repeated
