"""Reconstruction in the report: its charts and tables."""

from typing import ClassVar

from partbench.probes.reconstruction import ReconstructionSetting
from partbench.report.section import Reference, Section


class ReconstructionSection(Section):
    """No section of its own."""

    name = "Reconstruction"
    order = 55
    headline: ClassVar = ("psnr",)
    headline_settings: ClassVar = {ReconstructionSetting(): ""}
    labels: ClassVar = {
        "psnr": "PSNR",
        "mean_image_psnr": "PSNR of the mean image",
    }
    references: ClassVar = {"mean_image_psnr": [Reference("psnr", "floor", "Mean image")]}
