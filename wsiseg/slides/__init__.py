"""Slides: opening them, and reading boxes of them at any scale."""

from wsiseg.slides.frames import frame_at, read_frame
from wsiseg.slides.opening import open_slide
from wsiseg.slides.protocol import Level, Slide, SlideInfo

__all__ = ["Level", "Slide", "SlideInfo", "frame_at", "open_slide", "read_frame"]
