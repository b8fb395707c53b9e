"""Straggler coding for trusted clusters: codes, schedules, and the strategies."""
