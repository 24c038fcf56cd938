"""Real sentences with what a system might answer: the declarations of 1776 and 1948, Genesis 1, and the King James."""

PAIRS = [
    (
        "We hold these truths to be self-evident, that all men are created equal.",
        "We hold these truths to be sacred and undeniable, that all men are created equal & independent.",
    ),
    (
        "He has refused his Assent to Laws, the most wholesome and necessary for the public good.",
        "He refused to assent to laws that are wholesome and necessary for the common good.",
    ),
    ("In the beginning God created the heaven and the earth.", "At first, God created heaven and earth."),
    ("And God said, Let there be light: and there was light.", "God said: 'Let there be light', and there was light."),
    ("The unanimous Declaration of the thirteen united States of America", "A declaration of thirteen states"),
    (
        "בארץ־ישראל קם העם היהודי, בה עוצבה דמותו הרוחנית, הדתית והמדינית.",
        "בארץ ישראל קם העם היהודי ובה עוצבה דמותו הרוחנית והמדינית.",
    ),
    (
        "מדינת ישראל תהא פתוחה לעליה יהודית ולקיבוץ גלויות; תשקוד על פיתוח הארץ לטובת כל תושביה.",
        "המדינה תהיה פתוחה לעלייה ולקיבוץ גלויות ותשקוד על פיתוח הארץ.",
    ),
    ("בראשית ברא אלהים את השמים ואת הארץ", "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם וְאֵת הָאָרֶץ"),
    ("ויאמר אלהים יהי אור ויהי אור", "אלוהים אמר: יהי אור. ויהי אור."),
    ("החלטת האו״ם מיום כ״ט בנובמבר 1947", 'החלטת האו"ם מ-29 בנובמבר 1947'),
    ("And the evening and the morning were the first day.", "And the evening and the morning were the first day."),
    ("A long line\nand a second one,\nand a third.", "A line\nand another second one\nand the third."),
]
REFERENCES = [reference for reference, _ in PAIRS]
ANSWERS = [answer for _, answer in PAIRS]
ENGLISH = [(reference, answer) for reference, answer in PAIRS if reference.isascii()]
