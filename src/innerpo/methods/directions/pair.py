"""The pair's own direction, unit(d_i). Terms along it do not depend on the label; scoring uses the mean direction."""

from innerpo.methods.directions.direction import Direction
from innerpo.methods.directions.shared import mean_direction

pair = Direction(mean_direction, own=1.0)
