"""What training uses up, counted alike for every algorithm, and where it has to stop."""

from rft.budget.limits import Budget
from rft.budget.meter import Meter
from rft.budget.usage import COUNTED, RESOURCES, USAGE, Prices, Usage

__all__ = ["COUNTED", "RESOURCES", "USAGE", "Budget", "Meter", "Prices", "Usage"]
