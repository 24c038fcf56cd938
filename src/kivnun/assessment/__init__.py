"""Models on rows of their own: evaluated, compared, judged by a model and rated by people."""
