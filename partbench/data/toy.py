"""The embedded data set: articulated creatures, drawn from a seed.

The bytes are the same on every machine. Lengths are in heights of the creature or sides of the
image. y points down.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from partbench.data.drawing import (
    Array,
    Canvas,
    Colour,
    Draw,
    Ellipse,
    Marking,
    Placement,
    Shape,
    chain,
)
from partbench.data.reader import DataSettings, Reader, Sample
from partbench.settings import nearest

PARTS = ("head", "ears", "torso", "arms", "legs", "tail")
ACTIONS = ("walk", "wave", "jump", "spin", "nod")
SPLITS = ("train", "val", "test")
KINDS = ("images", "scenes", "clips")

# Left and right are those of the creature, which faces the viewer. Each limb is a separate group,
# so that a hand behind the other arm counts as hidden although both are "arms".
GROUPS = {
    "head": "head",
    "left ear": "ears",
    "right ear": "ears",
    "torso": "torso",
    "left arm": "arms",
    "right arm": "arms",
    "left leg": "legs",
    "right leg": "legs",
    "tail": "tail",
}
GROUP_NUMBER = {group: number for number, group in enumerate(GROUPS, start=1)}
PART_OF_GROUP = np.array([0, *(PARTS.index(p) + 1 for p in GROUPS.values())], np.uint8)
LANDMARKS = {
    "left eye": "head",
    "right eye": "head",
    "nose": "head",
    "left ear tip": "left ear",
    "right ear tip": "right ear",
    "left hand": "left arm",
    "right hand": "right arm",
    "left foot": "left leg",
    "right foot": "right leg",
    "tail tip": "tail",
}
OUTLINE = 0.016
"""Width of a creature's contour, in heights of the creature."""
CLUTTER_MARKINGS: tuple[Marking, ...] = ("plain", "plain", "stripes", "spots")
BLACK, WHITE = (0.06, 0.05, 0.06), (0.97, 0.97, 0.95)
SIDES = {"left": 1.0, "right": -1.0}
"""The direction of each side along u. The left of the creature is on the right of the picture."""


@dataclass(frozen=True)
class Species:
    """The shape of a species, with lengths in heights of the creature.

    A limb is a chain of segments. `*_length` is the length of one segment, and `*_radii` are the
    radii at the joints, from the root to the tip.
    """

    torso: tuple[float, float]
    head: tuple[float, float]
    legs: int
    marking: Marking
    ear_place: float
    ear_tilt: float
    ear_length: float
    ear_radii: tuple[float, ...]
    arm_length: float
    arm_radii: tuple[float, ...]
    leg_length: float
    leg_radii: tuple[float, ...]
    tail_length: float
    tail_radii: tuple[float, ...]
    eye: float
    muzzle: tuple[float, float]


# fmt: off
SPECIES = {
    "rabbit": Species(
        torso=(0.14, 0.19), head=(0.17, 0.15), legs=2, marking="belly",
        ear_place=0.35, ear_tilt=0.18, ear_length=0.12, ear_radii=(0.035, 0.05, 0.035),
        arm_length=0.11, arm_radii=(0.045, 0.04, 0.045),
        leg_length=0.09, leg_radii=(0.07, 0.06, 0.08),
        tail_length=0.05, tail_radii=(0.06, 0.07, 0.07),
        eye=0.034, muzzle=(0.06, 0.045),
    ),
    "cat": Species(
        torso=(0.13, 0.2), head=(0.19, 0.15), legs=2, marking="stripes",
        ear_place=0.6, ear_tilt=0.3, ear_length=0.09, ear_radii=(0.085, 0.05, 0.016),
        arm_length=0.12, arm_radii=(0.045, 0.035, 0.04),
        leg_length=0.11, leg_radii=(0.055, 0.04, 0.05),
        tail_length=0.15, tail_radii=(0.035, 0.035, 0.035, 0.035),
        eye=0.038, muzzle=(0.06, 0.04),
    ),
    "bear": Species(
        torso=(0.21, 0.22), head=(0.19, 0.17), legs=2, marking="plain",
        ear_place=0.75, ear_tilt=0.7, ear_length=0.02, ear_radii=(0.065, 0.065, 0.065),
        arm_length=0.11, arm_radii=(0.075, 0.07, 0.075),
        leg_length=0.08, leg_radii=(0.1, 0.085, 0.09),
        tail_length=0.065, tail_radii=(0.05, 0.05, 0.05),
        eye=0.026, muzzle=(0.09, 0.065),
    ),
    "mouse": Species(
        torso=(0.13, 0.16), head=(0.15, 0.14), legs=2, marking="plain",
        ear_place=0.85, ear_tilt=0.85, ear_length=0.045, ear_radii=(0.07, 0.1, 0.11),
        arm_length=0.09, arm_radii=(0.035, 0.03, 0.04),
        leg_length=0.08, leg_radii=(0.045, 0.035, 0.055),
        tail_length=0.17, tail_radii=(0.03, 0.022, 0.02, 0.018),
        eye=0.03, muzzle=(0.045, 0.06),
    ),
    "owl": Species(
        torso=(0.2, 0.25), head=(0.21, 0.15), legs=2, marking="spots",
        ear_place=0.8, ear_tilt=0.75, ear_length=0.07, ear_radii=(0.06, 0.035, 0.016),
        arm_length=0.15, arm_radii=(0.06, 0.12, 0.025),
        leg_length=0.05, leg_radii=(0.04, 0.03, 0.055),
        tail_length=0.07, tail_radii=(0.06, 0.08, 0.1),
        eye=0.062, muzzle=(0.02, 0.05),
    ),
    "dog": Species(
        torso=(0.14, 0.2), head=(0.16, 0.16), legs=2, marking="spots",
        ear_place=0.95, ear_tilt=2.6, ear_length=0.1, ear_radii=(0.045, 0.065, 0.07),
        arm_length=0.12, arm_radii=(0.05, 0.045, 0.055),
        leg_length=0.11, leg_radii=(0.06, 0.05, 0.065),
        tail_length=0.09, tail_radii=(0.045, 0.04, 0.028, 0.018),
        eye=0.03, muzzle=(0.085, 0.07),
    ),
    "dragon": Species(
        torso=(0.16, 0.22), head=(0.15, 0.14), legs=2, marking="rings",
        ear_place=0.65, ear_tilt=0.55, ear_length=0.09, ear_radii=(0.034, 0.026, 0.016),
        arm_length=0.16, arm_radii=(0.04, 0.1, 0.02),
        leg_length=0.1, leg_radii=(0.08, 0.06, 0.06),
        tail_length=0.16, tail_radii=(0.12, 0.08, 0.05, 0.018),
        eye=0.032, muzzle=(0.09, 0.05),
    ),
    "beetle": Species(
        torso=(0.23, 0.21), head=(0.13, 0.11), legs=4, marking="spots",
        ear_place=0.5, ear_tilt=0.45, ear_length=0.1, ear_radii=(0.016, 0.014, 0.04),
        arm_length=0.12, arm_radii=(0.025, 0.022, 0.022),
        leg_length=0.12, leg_radii=(0.028, 0.024, 0.03),
        tail_length=0.06, tail_radii=(0.06, 0.04, 0.02),
        eye=0.042, muzzle=(0.03, 0.02),
    ),
}
# fmt: on


@dataclass(frozen=True)
class Pose:
    """The position and posture of a creature, with angles in radians."""

    x: float
    y: float
    scale: float
    roll: float
    yaw: float
    """-1..1: the direction in which the face looks."""
    tilt: float
    nod: float
    """-1..1: the degree to which the head is bowed."""
    arms: Mapping[str, float]
    """Side -> angle of the arm: 0 hangs down, pi points up."""
    elbows: Mapping[str, float]
    behind: Mapping[str, bool]
    """Side -> whether the arm passes behind the torso."""
    legs: Mapping[str, float]
    knees: Mapping[str, float]
    tail: float
    curl: float


@dataclass(frozen=True)
class Look:
    """The colours of one creature."""

    body: Colour
    accent: Colour
    limbs: Colour


def draw_pose(draw: Draw) -> Pose:
    """Draw a pose for a creature that fills most of the picture."""
    tail_side = draw.choice((-1, 1))
    return Pose(
        x=0.5 + draw.around(0.1),
        y=0.55 + draw.around(0.07),
        scale=draw.between(0.62, 0.86),
        roll=draw.around(0.3),
        yaw=draw.around(1.0),
        tilt=draw.around(0.25),
        nod=draw.around(0.6),
        arms={side: draw.between(0.3, 2.2) for side in SIDES},
        elbows={side: draw.between(-0.4, 0.8) for side in SIDES},
        behind={side: draw.chance(0.2) for side in SIDES},
        legs={side: draw.between(-0.1, 0.6) for side in SIDES},
        knees={side: draw.around(0.35) for side in SIDES},
        tail=tail_side * draw.between(1.2, 2.1),
        curl=tail_side * draw.between(0.0, 0.7),
    )


def draw_look(draw: Draw, bright: bool) -> Look:
    """Draw the colours of a creature, independently of its species."""
    body = draw.colour(bright)
    accent = draw.colour(not bright)
    shade = draw.between(0.75, 1.0)
    return Look(body, accent, (body[0] * shade, body[1] * shade, body[2] * shade))


class Puppet:
    """One creature on a canvas.

    Attributes:
        points: landmarks painted so far, hidden or not: name -> (x, y) in sides of the image.
    """

    def __init__(self, canvas: Canvas, species: Species, look: Look, pose: Pose) -> None:
        self.canvas, self.species, self.look, self.pose = canvas, species, look, pose
        self.torso = Placement(pose.x, pose.y, pose.scale).moved(0, 0, pose.roll)
        self.points: dict[str, tuple[float, float]] = {}

    def paint(self) -> dict[str, tuple[float, float]]:
        """Paint the creature, back to front, and return its landmarks (`points`)."""
        behind = self.pose.behind
        floppy = self.species.ear_tilt > math.pi / 2
        self._tail()
        for side in SIDES:
            self._legs(side)
            if behind[side]:
                self._arm(side)
        self._part(
            [Ellipse(self.torso, *self.species.torso)],
            "torso",
            self.look.body,
            self.species.marking,
        )
        if floppy:
            self._head()
        for side in SIDES:
            self._ear(side)
        if not floppy:
            self._head()
        for side in SIDES:
            if not behind[side]:
                self._arm(side)
        return self.points

    def _part(self, shape: Shape, group: str, colour: Colour, marking: Marking = "plain") -> None:
        outline = OUTLINE * self.pose.scale
        number = GROUP_NUMBER[group]
        self.canvas.paint(shape, colour, number, marking, self.look.accent, outline)

    @property
    def _stripes(self) -> Marking:
        """The marking of head and tail: stripes cover all parts, other markings only the torso."""
        return "stripes" if self.species.marking == "stripes" else "plain"

    def _tail(self) -> None:
        species, (width, height) = self.species, self.species.torso
        root = self.torso.moved(0, 0.6 * height, -self.pose.tail).moved(0, 0.6 * width)
        tail, tip = chain(root, species.tail_length, species.tail_radii, -self.pose.curl)
        self._part(tail, "tail", self.look.body, self._stripes)
        self.points["tail tip"] = tip

    def _legs(self, side: str) -> None:
        species, (width, height), sign = self.species, self.species.torso, SIDES[side]
        for pair in range(species.legs // 2):
            hip = self.torso.moved(
                sign * width * (0.55 + 0.3 * pair),
                height * (0.72 - 0.3 * pair),
                -sign * (self.pose.legs[side] + 0.6 * pair),
            )
            bend = -sign * self.pose.knees[side]
            leg, foot = chain(hip, species.leg_length, species.leg_radii, bend)
            self._part(leg, f"{side} leg", self.look.limbs)
            # The landmark is the foot of the lowest pair of legs.
            self.points.setdefault(f"{side} foot", foot)

    def _arm(self, side: str) -> None:
        species, (width, height), sign = self.species, self.species.torso, SIDES[side]
        shoulder = self.torso.moved(
            sign * 0.7 * width, -0.55 * height, -sign * self.pose.arms[side]
        )
        bend = -sign * self.pose.elbows[side]
        arm, hand = chain(shoulder, species.arm_length, species.arm_radii, bend)
        self._part(arm, f"{side} arm", self.look.limbs)
        self.points[f"{side} hand"] = hand

    @property
    def _skull(self) -> Placement:
        neck = self.torso.moved(0, -0.75 * self.species.torso[1], self.pose.tilt)
        return neck.moved(
            0.03 * self.pose.yaw, -self.species.head[1] * (0.85 - 0.25 * self.pose.nod)
        )

    def _ear(self, side: str) -> None:
        species, (width, height), sign = self.species, self.species.head, SIDES[side]
        root = self._skull.moved(
            sign * width * species.ear_place,
            -height * (1 - 0.7 * species.ear_place),
            math.pi + sign * species.ear_tilt,
        )
        ear, tip = chain(root, species.ear_length, species.ear_radii, sign * 0.15)
        self._part(ear, f"{side} ear", self.look.limbs)
        self.points[f"{side} ear tip"] = tip

    def _head(self) -> None:
        species, pose, (width, height) = self.species, self.pose, self.species.head
        self._part([Ellipse(self._skull, width, height)], "head", self.look.body, self._stripes)
        face = self._skull.moved(0.22 * width * pose.yaw, 0.25 * height * pose.nod)
        muzzle = face.moved(0, 0.38 * height)
        self._dot(muzzle, *species.muzzle, self.look.accent)
        nose = muzzle.moved(0, -0.4 * species.muzzle[1])
        self._dot(nose, 0.024, 0.018, BLACK)
        self.points["nose"] = nose.point(0, 0)
        for side, sign in SIDES.items():
            eye = face.moved(sign * (0.2 * width + species.eye), -0.15 * height)
            pupil = eye.moved(0.3 * species.eye * pose.yaw, 0.3 * species.eye * pose.nod)
            self._dot(eye, species.eye, species.eye, WHITE)
            self._dot(pupil, 0.6 * species.eye, 0.6 * species.eye, BLACK)
            self.points[f"{side} eye"] = eye.point(0, 0)

    def _dot(self, placement: Placement, a: float, b: float, colour: Colour) -> None:
        self.canvas.paint([Ellipse(placement, a, b)], colour, GROUP_NUMBER["head"])


def paint_ground(canvas: Canvas, draw: Draw, bright: bool) -> None:
    """Fill the canvas with a drawn colour."""
    canvas.image[:] = draw.colour(bright)


def paint_clutter(canvas: Canvas, draw: Draw, bright: bool, palette: Sequence[Colour]) -> None:
    """Paint textured shapes over the canvas, some of them in colours of `palette`."""
    for _ in range(draw.count(9, 14)):
        position = Placement(draw.between(0, 1), draw.between(0, 1))
        placement = position.moved(0, 0, draw.around(math.pi))
        shape: Shape
        if draw.chance(0.5):
            shape = [Ellipse(placement, draw.between(0.04, 0.16), draw.between(0.04, 0.16))]
        else:
            shape, _ = chain(
                placement,
                draw.between(0.08, 0.25),
                (draw.between(0.02, 0.07), draw.between(0.02, 0.07), draw.between(0.01, 0.05)),
                draw.around(0.8),
            )
        colour = draw.colour(bright)
        if draw.chance(0.2):
            colour = draw.choice(palette)
        marking = draw.choice(CLUTTER_MARKINGS)
        canvas.paint(shape, colour, 0, marking, draw.colour(bright))


def paint_occluder(canvas: Canvas, draw: Draw, bright: bool) -> None:
    """Paint a blade of grass or a post in front of all else, away from the middle."""
    x = 0.5 + draw.choice((-1, 1)) * draw.between(0.12, 0.4)
    placement = Placement(x, 1.05).moved(0, 0, math.pi + draw.around(0.3))
    radius = draw.between(0.03, 0.07)
    shape, _ = chain(placement, draw.between(0.15, 0.35), (radius, radius, 0.02), draw.around(0.4))
    canvas.paint(shape, draw.colour(bright), outline=0.8 * OUTLINE)


@dataclass(frozen=True)
class Light:
    """A linear gradient of illumination across the picture."""

    level: float
    across: float
    down: float

    def develop(self, canvas: Canvas, noise: Array) -> NDArray[np.uint8]:
        """Return the picture with light and noise, uint8 [H, W, 3].

        Args:
            canvas: the painted picture.
            noise: [H, W, 3], added to the lit picture, full scale 1.
        """
        x, y = canvas.centres[None, :, None] - 0.5, canvas.centres[:, None, None] - 0.5
        lit = canvas.image * (self.level + self.across * x + self.down * y) + noise
        return np.floor(np.clip(lit, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw_light(draw: Draw) -> Light:
    """Draw an illumination."""
    return Light(draw.between(0.85, 1.1), draw.around(0.4), draw.around(0.4))


def act(action: str, pose: Pose, beat: float) -> Pose:
    """Return `pose` as it is in phase `beat` of an action, in periods."""
    swing = round(math.sin(2 * math.pi * beat), 10)
    rise = (1 - round(math.cos(2 * math.pi * beat), 10)) / 2
    if action == "walk":
        return replace(
            pose,
            x=pose.x + 0.06 * swing,
            roll=pose.roll + 0.08 * swing,
            arms={side: 0.7 + 0.5 * sign * swing for side, sign in SIDES.items()},
            legs={side: 0.25 + 0.45 * sign * swing for side, sign in SIDES.items()},
        )
    if action == "wave":
        side = "left" if pose.tail < 0 else "right"  # the side without the tail
        arms = {**pose.arms, side: 2.3 + 0.5 * swing}
        return replace(pose, arms=arms, behind=dict.fromkeys(SIDES, False))
    if action == "jump":
        return replace(
            pose,
            y=pose.y + 0.08 - 0.2 * rise,
            arms=dict.fromkeys(SIDES, 0.5 + 1.6 * rise),
            legs=dict.fromkeys(SIDES, 0.6 - 0.5 * rise),
        )
    if action == "spin":
        turn = beat if pose.tail < 0 else -beat
        return replace(pose, scale=0.85 * pose.scale, y=0.5, roll=2 * math.pi * turn)
    return replace(pose, nod=1.2 * swing, tilt=0.0)


class Toy(Reader):
    """Drawn creatures: images of one, scenes of several, or short clips of actions."""

    class Settings(DataSettings):
        """Settings of the drawn data set."""

        kind: Literal["images", "scenes", "clips"] = Field(
            "images",
            description="images: one creature, label = species; scenes: several creatures, no "
            "label; clips: one moving creature, label = action",
        )
        seed: int = Field(0, ge=0, description="another seed gives another data set")
        train: int = Field(2000, ge=1, description="number of samples in split train")
        val: int = Field(500, ge=1, description="number of samples in split val")
        test: int = Field(1000, ge=1, description="number of samples in split test")
        frames: int = Field(8, ge=2, le=256, description="number of frames in a clip")
        creatures: int = Field(
            4,
            ge=1,
            le=4,
            description="most creatures in a scene; the fewest is 2, or 1 if this is 1",
        )
        occluded: float = Field(
            0.3, ge=0, le=1, description="share of images with an object in front of the creature"
        )
        species: tuple[str, ...] = Field(
            tuple(SPECIES),
            min_length=1,
            description="the species drawn; one species alone makes one kind of object, like faces",
        )
        clutter: bool = Field(
            True, description="shapes behind the creature instead of a plain colour"
        )
        noise: float = Field(
            0.06, ge=0, le=0.5, description="largest noise of a pixel, share of full scale"
        )

        @field_validator("species")
        @classmethod
        def _check_species(cls, names: tuple[str, ...]) -> tuple[str, ...]:
            for name in names:
                if name not in SPECIES:
                    raise ValueError(f"there is no species '{name}'; {nearest(name, SPECIES)}")
            return names

    part_names = PARTS
    landmark_names: Sequence[str] = tuple(LANDMARKS)
    landmark_swap: Sequence[int] = (1, 0, 2, 4, 3, 6, 5, 8, 7, 9)
    licence = "drawn by partbench; no rights reserved"

    def __init__(self, root: Path, settings: Settings) -> None:
        super().__init__(root, settings)
        self.class_names = {"images": settings.species, "scenes": (), "clips": ACTIONS}[
            settings.kind
        ]
        self.counts = {split: getattr(settings, split) for split in SPLITS}
        if settings.kind == "scenes":
            self.landmark_names = self.landmark_swap = ()

    @property
    def split_names(self) -> Sequence[str]:
        """Names of the splits."""
        return SPLITS

    @property
    def frames(self) -> int:
        """Number of frames of a sample."""
        return int(self.settings.frames) if self.settings.kind == "clips" else 1

    def splits(self) -> dict[str, Sequence[str]]:
        """Return the names of the drawings of each split; a name is a number."""
        return {split: [f"{i:06d}" for i in range(n)] for split, n in self.counts.items()}

    def sample(self, split: str, index: int) -> Sample:
        """Draw sample `index` of `split`, independently of all other samples."""
        kind = KINDS.index(self.settings.kind)
        draw = Draw(self.settings.seed, kind, SPLITS.index(split), index)
        name = f"{index:06d}"
        if kind == 0:
            return self._image(draw, name, index)
        if kind == 1:
            return self._scene(draw, name)
        return self._clip(draw, name, index, self.settings.frames)

    def pairs(self, split: str, index: int) -> NDArray[np.uint8]:
        """Draw each frame of a clip with the next one; see `Reader.pairs`."""
        if self.settings.kind != "clips":
            return super().pairs(split, index)
        draw = Draw(self.settings.seed, KINDS.index("clips"), SPLITS.index(split), index)
        longer = self._clip(draw, f"{index:06d}", index, self.settings.frames + 1).image
        return np.stack([longer[:-1], longer[1:]], 1)

    def _image(self, draw: Draw, name: str, index: int) -> Sample:
        label = index % len(self.class_names)
        canvas = Canvas(self.settings.size)
        bright = draw.chance(0.5)
        look = draw_look(draw, bright)
        paint_ground(canvas, draw, not bright)
        if self.settings.clutter:
            paint_clutter(canvas, draw, not bright, (look.body, look.accent))
        points = Puppet(canvas, SPECIES[self.class_names[label]], look, draw_pose(draw)).paint()
        if draw.chance(self.settings.occluded):
            paint_occluder(canvas, draw, not bright)
        light = draw_light(draw)
        landmarks, visible = self._landmarks(canvas, points)
        parts = PART_OF_GROUP[canvas.groups]
        return Sample(
            name,
            light.develop(canvas, self._noise(draw)),
            label,
            landmarks,
            visible,
            _box(canvas),
            mask=parts != 0,
            parts=parts,
        )

    def _scene(self, draw: Draw, name: str) -> Sample:
        canvas = Canvas(self.settings.size)
        bright, maximum = draw.chance(0.5), self.settings.creatures
        count = draw.count(min(2, maximum), maximum)
        looks = [draw_look(draw, bright) for _ in range(count)]
        paint_ground(canvas, draw, not bright)
        if self.settings.clutter:
            paint_clutter(canvas, draw, not bright, [look.body for look in looks])
        quadrants = [(0.27, 0.28), (0.73, 0.28), (0.27, 0.77), (0.73, 0.77)]
        while len(quadrants) > len(looks):
            quadrants.remove(draw.choice(quadrants))
        for look, (x, y) in zip(looks, quadrants, strict=True):
            species = SPECIES[draw.choice(self.settings.species)]
            pose = draw_pose(draw)
            pose = replace(
                pose,
                x=x + 0.4 * (pose.x - 0.5),
                y=y + 0.4 * (pose.y - 0.55),
                scale=0.5 * pose.scale,
            )
            Puppet(canvas, species, look, pose).paint()
        light = draw_light(draw)
        image = light.develop(canvas, self._noise(draw))
        parts = PART_OF_GROUP[canvas.groups]
        return Sample(name, image, mask=parts != 0, parts=parts)

    def _clip(self, draw: Draw, name: str, index: int, count: int) -> Sample:
        """Draw the first `count` frames of a clip, whose action takes `frames` of the settings."""
        label = index % len(ACTIONS)
        background = Canvas(self.settings.size)
        bright = draw.chance(0.5)
        look = draw_look(draw, bright)
        paint_ground(background, draw, not bright)
        if self.settings.clutter:
            paint_clutter(background, draw, not bright, (look.body, look.accent))
        species = SPECIES[draw.choice(self.settings.species)]
        pose, light = draw_pose(draw), draw_light(draw)
        phase, periods = draw.between(0, 1), draw.between(0.9, 1.6)
        frames = []
        for frame in range(count):
            canvas = background.copy()
            beat = phase + periods * frame / self.settings.frames
            points = Puppet(canvas, species, look, act(ACTIONS[label], pose, beat)).paint()
            frames.append(
                (
                    light.develop(canvas, self._noise(draw)),
                    *self._landmarks(canvas, points),
                    _box(canvas),
                    PART_OF_GROUP[canvas.groups],
                )
            )
        image, landmarks, visible, box, parts = (np.stack(a) for a in zip(*frames, strict=True))
        return Sample(name, image, label, landmarks, visible, box, mask=parts != 0, parts=parts)

    def _noise(self, draw: Draw) -> Array:
        return self.settings.noise * draw.noise((self.settings.size, self.settings.size, 3))

    def _landmarks(
        self, canvas: Canvas, points: dict[str, tuple[float, float]]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the landmarks in pixels, and whether each is visible.

        A landmark is visible if the pixel at its position shows its own limb.
        """
        landmarks = np.array([points[name] for name in LANDMARKS]) * canvas.size - 0.5
        column, row = np.floor(landmarks.T + 0.5).astype(int)
        inside = (column >= 0) & (row >= 0) & (column < canvas.size) & (row < canvas.size)
        last = canvas.size - 1
        owners = canvas.groups[np.clip(row, 0, last), np.clip(column, 0, last)]
        limbs = [GROUP_NUMBER[group] for group in LANDMARKS.values()]
        return landmarks.astype(np.float32), inside & (owners == limbs)


def _box(canvas: Canvas) -> NDArray[np.float32]:
    """Return the box around the visible pixels of the creature, (x, y, width, height)."""
    rows, columns = np.nonzero(canvas.groups)
    low = np.array([columns.min(), rows.min()])
    high = np.array([columns.max(), rows.max()])
    return np.concatenate([low - 0.5, high - low + 1.0]).astype(np.float32)
