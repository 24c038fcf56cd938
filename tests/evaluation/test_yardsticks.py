from kivnun.evaluation.yardsticks import answer_linear, answer_majority

TEXTS = [
    "what a lovely day",
    "lovely, lovely news!",
    "איזה יופי של יום",
    "I am so scared",
    "scared of the dark",
    "אני מפחדת מהחושך",
]
LABELS = ["joy", "joy", "joy", "fear", "fear", "fear"]


def test_the_majority_is_that_of_the_train_split():
    assert answer_majority(["joy", "fear", "fear"], 2) == ["fear", "fear"]


def test_equally_common_labels_are_decided_by_the_alphabet_and_not_by_the_order_of_the_rows():
    assert answer_majority(["joy", "fear"], 1) == answer_majority(["fear", "joy"], 1) == ["fear"]


def test_the_linear_yardstick_learns_english_and_hebrew():
    answers = answer_linear(TEXTS, LABELS, ["lovely!", "the dark scared me", "יופי", "החושך מפחיד"], seed=0)
    assert answers == ["joy", "fear", "joy", "fear"]


def test_the_linear_yardstick_sees_points_and_emoji():
    texts = ["😀", "😀 😀", "😱", "😱 😱", "שָׂמֵחַ", "פַּחַד"]
    answers = answer_linear(texts, ["joy", "joy", "fear", "fear", "joy", "fear"], ["😀", "😱", "שָׂמֵחַ", "פַּחַד"], seed=0)
    assert answers == ["joy", "fear", "joy", "fear"]


def test_one_text_is_answered_alike_alone_and_in_a_batch():
    texts = ["lovely dark", "scared", "יום"]
    together = answer_linear(TEXTS, LABELS, texts, seed=0)
    alone = [answer_linear(TEXTS, LABELS, [text], seed=0)[0] for text in texts]
    assert together == alone


def test_one_class_only_is_answered_with_it():
    assert answer_linear(["a", "b"], ["joy", "joy"], ["c", "d"], seed=0) == ["joy", "joy"]


def test_texts_without_a_word_fall_back_to_the_majority():
    assert answer_linear(["", " ", ""], ["joy", "joy", "fear"], ["x"], seed=0) == ["joy"]
