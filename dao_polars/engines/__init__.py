"""Engines that run the pieces of a selection: dask, Ray, executors of processes.

Owns how a task is handed to each and its result fetched. Must not know what a task computes, and
schedules nothing itself.
"""
