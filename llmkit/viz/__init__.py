"""Figures: the house style, and the drawings that more than one lesson needs."""

from llmkit.viz.cuts import draw_boxes, draw_lattice, draw_merge_tree
from llmkit.viz.style import COLORS, figure, show, use_house_style
from llmkit.viz.text import show_tokens
from llmkit.viz.training import draw_losses, smooth
