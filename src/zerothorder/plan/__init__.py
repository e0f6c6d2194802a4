"""What a run will take, before any weight is loaded: memory by part, forwards, time, bytes of ledger."""

from zerothorder.plan.config import PlanConfig
from zerothorder.plan.make import Plan, make_plan

__all__ = ["Plan", "PlanConfig", "make_plan"]
