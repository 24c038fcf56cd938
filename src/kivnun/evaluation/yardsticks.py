"""Two honest yardsticks: what a language model must beat to be worth its cost.

Both see the train split only. The linear one has fixed settings, so that nothing is chosen on the test split.
"""

from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from kivnun.evaluation.metrics import normalize_text

# Words with their combining marks (Hebrew points, accents) and inner apostrophes; any other visible sign, such as an
# emoji or a question mark, is a token of its own. scikit-learn's default drops one-letter words and cuts at points.
WORD_OR_SIGN = r"\w[\w\u0300-\u036F\u0591-\u05C7'’\"״׳]*|[^\w\s]"
INVERSE_REGULARIZATION = 10.0
MAX_ITERATIONS = 2000


def answer_majority(train_labels: Sequence[str], num_rows: int) -> list[str]:
    """Answer every row with the commonest label of the train split, the first in the alphabet if several are."""
    counts = Counter(normalize_text(label) for label in train_labels)
    commonest = min(counts, key=lambda label: (-counts[label], label))
    return [commonest] * num_rows


def answer_linear(
    train_texts: Sequence[str], train_labels: Sequence[str], test_texts: Sequence[str], *, seed: int
) -> list[str]:
    """Answer with TF-IDF (words 1-2, characters 2-5 within words) and logistic regression."""
    texts = [normalize_text(text) for text in train_texts]
    labels = [normalize_text(label) for label in train_labels]
    # With one class, or without a word, there is no line to draw: the majority is all that such data can teach.
    if len(set(labels)) < 2 or not any(texts):
        return answer_majority(labels, len(test_texts))
    features = make_union(
        TfidfVectorizer(token_pattern=WORD_OR_SIGN, ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    classifier = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=MAX_ITERATIONS, random_state=seed)
    model = make_pipeline(features, classifier)
    model.fit(texts, labels)
    return [str(label) for label in model.predict([normalize_text(text) for text in test_texts])]
