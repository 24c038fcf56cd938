"""Jobs in an Azure Machine Learning workspace: what they are made of, and how they are sent."""
