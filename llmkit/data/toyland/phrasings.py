"""How one can ask for it: phrasings of every family of instructions, those to learn from and those kept aside.

{text} is what the instruction is about, {question}, {old} and {new} what it asks for; a system message and the
instruction are written apart. No phrasing of HELD_OUT is used in training, and none is a phrasing of TRAIN with other
capitals or signs: they differ in words. The words themselves mostly occur in other phrasings, as they would in life.
"""

TRAIN: dict[str, tuple[str, ...]] = {
    "answer": (
        "{text}\n{question}", "{question}\n{text}", "Answer the question. {text} {question}",
        "Read the story and answer. {text} {question}", "Here is a story: {text}\nNow tell me: {question}",
        "Question: {question}\nStory: {text}", "Please answer this: {question} The story is: {text}",
        "Story: {text}\nQuestion: {question}", "I have a question about this story. {text} {question}",
    ),
    "summarise": (
        "Summarise: {text}", "Summarise this story in one sentence. {text}", "{text}\nSummarise it, please.",
        "Give me a summary. {text}", "Write a short summary of the story.\n{text}", "Story: {text}\nSummary?",
        "Tell me the story in one sentence: {text}", "{text}\nWhat is the story about, in one sentence?",
        "Please make this short: {text}",
    ),
    "translate": (
        "Translate: {text}", "Translate into Tolk: {text}", "{text}\nTranslate this sentence into Tolk.",
        "Say it in Tolk. {text}", "What is this in Tolk? {text}", "How do I say this in Tolk? {text}",
        "Please translate the sentence. {text}", "English: {text}\nTolk:", "Write this sentence in Tolk: {text}",
    ),
    "classify": (
        "Is this review positive or negative? {text}", "Classify the review: {text}", "{text}\nPositive or negative?",
        "Classify the sentiment. {text}", "Review: {text}\nSentiment?", "What is the sentiment of this review? {text}",
        "Please classify this review as positive or negative. {text}", "{text}\nWhat is the sentiment, please?",
        "Read the review. Is it positive or negative? {text}",
    ),
    "extract": (
        "Who is in the story? {text}", "Name the people in the story. {text}", "{text}\nName all the people.",
        "Find the names of the people. {text}", "Give me the names in this story: {text}",
        "Extract the names: {text}", "{text}\nWrite the names of the people in the story.",
        "Which people are in this story? {text}", "Please name everybody in the story. {text}",
    ),
    "count": (
        "{text}\nHow many {question} are left?", "How many {question} are left? {text}",
        "Count the {question} that are left. {text}", "{text}\nCount: how many {question} are there now?",
        "Read the story and count the {question}. {text}", "{text}\nTell me how many {question} are left.",
        "Here is a story: {text}\nHow many {question} are there in the end?", "Story: {text}\nNumber of {question}?",
        "Please count the {question} at the end of the story. {text}",
    ),
    "reverse": (
        "Reverse: {text}", "Reverse the list: {text}", "{text}\nReverse it.",
        "Write these words in reverse order: {text}",
        "Reverse the order of the words. {text}", "Please reverse this list. {text}", "List: {text}\nReverse list:",
        "Say these words from the last to the first: {text}", "{text}\nGive me this list in reverse.",
    ),
    "list": (
        "Which of these are {question}? {text}", "List the {question}: {text}", "{text}\nList all the {question}.",
        "Find the {question} in this list. {text}", "Name the {question} in this list: {text}",
        "{text}\nWhich of these words are {question}?", "Please list the {question}. {text}",
        "Words: {text}\nWrite only the {question}.", "Read the list and write the {question}: {text}",
    ),
    "rewrite": (
        "Write this with {new} instead of {old}: {text}", "{text}\nWrite it with {new}, not {old}.",
        "Put {new} in place of {old}. {text}", "Change {old} to {new}: {text}", "{text}\nChange {old} to {new}.",
        "Rewrite the sentence with {new} instead of {old}. {text}", "Say it again with {new} in place of {old}: {text}",
        "Please change {old} to {new} in this sentence. {text}", "Sentence: {text}\nNow write {new} instead of {old}.",
    ),
    "format": (
        "{text} {question}", "{text}\n{question}", "Read the story. {text} {question}", "{question} {text}",
        "{question} The story is: {text}", "Story: {text}\n{question}", "{question}\nStory: {text}",
        "Here is a story: {text}\n{question}", "{question}\n{text}",
    ),
    "follow_up": (
        "Tell me more about it.", "Say more about it.", "What else do you know about it?", "And what about it?",
        "Now tell me something about it.", "Please tell me more.", "Can you say more?",
        "What more is there to say about it?",
        "Thank you. Tell me more about it, please.",
    ),
    "system": (
        "Begin every answer with {new}.", "You begin all your answers with {new}.", "Always say {new} first.",
        "Say {new} before you answer.", "Write {new} at the beginning of every answer.",
        "Your first word is {new}.", "You are polite. You say {new} first.", "Please begin with {new}.",
        "Every answer begins with {new}.",
    ),
}  # fmt: skip
TRAIN["refuse"] = TRAIN["answer"]  # the question alone must not tell that there is no answer

HELD_OUT: dict[str, tuple[str, ...]] = {
    "answer": (
        "Tell me, after this story: {text} {question}", "Read this and tell me: {question}\n{text}",
        "{text}\nPlease tell me: {question}",
    ),
    "summarise": (
        "In one sentence: {text}", "{text}\nNow tell it in one sentence.",
        "Please give me the story in short. {text}",
    ),
    "translate": (
        "{text}\nIn Tolk, please.", "Give me the Tolk for this: {text}", "Now say this sentence in Tolk: {text}",
    ),
    "classify": (
        "{text}\nIs it negative or positive?", "Tell me the sentiment: {text}",
        "Is the sentiment here positive or negative? {text}",
    ),
    "extract": (
        "{text}\nWho are the people?", "Tell me the names of all people here: {text}",
        "List everybody in the story: {text}",
    ),
    "count": (
        "{text}\nSo how many {question} are left now?", "Tell me the number of {question} in the end: {text}",
        "In the end, how many {question} are there? {text}",
    ),
    "reverse": (
        "Write the list from the last word to the first: {text}", "{text}\nNow in reverse order.",
        "The reverse of this, please: {text}",
    ),
    "list": (
        "{text}\nWhat {question} are in this list?", "Tell me which words are {question}: {text}",
        "Only the {question}, please: {text}",
    ),
    "rewrite": (
        "{text}\nSay {new} instead of {old}.", "The same sentence with {new} in place of {old}: {text}",
        "It is not {old}, it is {new}. Write the sentence again: {text}",
    ),
    "format": (
        "Please read: {text} {question}", "{question} Read this story: {text}", "Now a story: {text}\n{question}",
    ),
    "follow_up": (
        "Tell me something else about it.", "And what more can you say about it?", "Say something more, please.",
    ),
    "system": (
        "All answers begin with {new}.", "Say {new}, and then answer.", "The first word of every answer is {new}.",
    ),
}  # fmt: skip
HELD_OUT["refuse"] = HELD_OUT["answer"]

# What the family "format" asks for: its kinds, each in several phrasings ({thing} is who has it).
FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "json": (
        ("Who has the {thing}? Answer in JSON with thing and holder.",
         "Say who has the {thing}, as JSON with the keys thing and holder.",
         "Write JSON with the keys thing and holder."),
        ("Give me JSON: thing and holder.",),
    ),
    "brackets": (
        ("Who has the {thing}? Write only the name, in brackets.", "Say who has the {thing}, as a name in brackets.",
         "Put the name of the holder of the {thing} in brackets."),
        ("In brackets, write who has the {thing}.",),
    ),
    "lines": (
        ("Write the thing and its holder as a list of two lines.", "Make a list: the {thing}, then who has it.",
         "List thing and holder, each on a line of its own."),
        ("Two lines, please: the thing, then the holder.",),
    ),
    "done": (
        ("Who has the {thing}? End your answer with Done.", "Say who has the {thing}, and then say Done.",
         "Who has the {thing}? The last word of the answer is Done."),
        ("Say who has the {thing}. End with Done.",),
    ),
}  # fmt: skip
