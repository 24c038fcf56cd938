"""The search for better values of a recipe: trials in processes of their own, chosen and stopped by Optuna."""
