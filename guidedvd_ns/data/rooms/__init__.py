"""Procedural rooms: a seed becomes a furnished room, and a batched ray caster in torch renders it anywhere."""

from guidedvd_ns.data.rooms.rendering import RoomRender, render, render_depth
from guidedvd_ns.data.rooms.room import HELD_OUT_SEEDS, Room, is_close_up, stack_rooms, training_seed
from guidedvd_ns.data.rooms.views import is_free, look_at, sample_views

__all__ = [
    "HELD_OUT_SEEDS",
    "Room",
    "RoomRender",
    "is_close_up",
    "is_free",
    "look_at",
    "render",
    "render_depth",
    "sample_views",
    "stack_rooms",
    "training_seed",
]
