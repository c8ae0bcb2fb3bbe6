"""The search: proposals by Optuna, a journal that loses nothing, evaluators here or under Ray.

Importing this package imports none of them; the modules that need Optuna, Ray or torch are imported
where they are used.
"""
