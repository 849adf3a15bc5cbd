"""Figures of the tables that ``analysis`` makes; nothing is computed here."""
