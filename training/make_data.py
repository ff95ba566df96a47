"""Turn facts.tsv into chat samples: many phrasings, some noise, some dialogues of several turns.

Writes `prose.txt` (the books without their licence texts, joined) and `chat.jsonl` (one
conversation per line). The same seed and texts give the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
Pair = tuple[str, str]
Maker = Callable[[random.Random], Pair]

TOPIC = (
    "What is {}?", "What is {}?", "What is {}?", "What's {}?", "Explain {}", "Please explain {}.",
    "Can you explain {}?", "Could you explain {}?", "Explain {} in simple words", "Define {}",
    "Tell me about {}", "Can you tell me what {} is?", "Do you know what {} is?", "{}?", "{}",
    "What does {} mean?", "What is the meaning of {}?", "What do you know about {}?",
    "I do not understand {}", "What do people mean by {}?", "Describe {}", "What, then, is {}?",
    "I want to know what {} is", "Give me a definition of {}", "How would you explain {}?",
    "How does {} help?", "Why is {} useful?", "What is {} for?", "What does {} do?",
    "Say what {} is",
    "How does {} work?", "Tell me more about {}", "What exactly is {}?", "Do you know {}?",
    "What can you tell me about {}?", "I have a question about {}", "{} - what is it?",
)
CAPITAL = (
    "What is the capital of {}?", "What is the capital of {}?", "What's the capital of {}?",
    "Which city is the capital of {}?", "Name the capital of {}", "The capital of {}?",
    "Capital of {}", "Tell me the capital of {}", "Do you know the capital of {}?",
    "What is the capital city of {}?", "What city is the capital of {}?", "{}'s capital?",
    "Can you tell me the capital of {}?", "What is the name of the capital of {}?",
)
COLOUR = (
    "What colour is {}?", "What colour is {}?", "What color is {}?", "Which colour is {}?",
    "What is the colour of {}?", "What is the color of {}?", "The colour of {}?",
    "Tell me the colour of {}", "Do you know what colour {} is?", "What colour does {} have?",
    "Which color does {} have?", "Name the colour of {}",
)
OPPOSITE = (
    "What is the opposite of {}?", "What's the opposite of {}?", "The opposite of {}?",
    "Opposite of {}", "Tell me the opposite of {}", "What is the contrary of {}?",
    "Which word is the opposite of {}?", "Name the opposite of {}",
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
AFTER = (
    "Which {k} comes after {x}?", "What {k} comes after {x}?", "What is the {k} after {x}?",
    "Which {k} follows {x}?", "What comes after {x}?", "What {k} is after {x}?",
)
BEFORE = (
    "Which {k} comes before {x}?", "What {k} comes before {x}?", "What is the {k} before {x}?",
    "What comes before {x}?", "What {k} is before {x}?",
)
NUMBERS = "zero one two three four five six seven eight nine ten".split()
PLUS = (
    "What is {} plus {}?", "What's {} plus {}?", "{}+{}", "{} + {}", "{} + {} = ?", "{}+{}=",
    "How much is {} plus {}?", "What is {} + {}?", "Add {} and {}", "{} plus {}",
    "What is the sum of {} and {}?", "Calculate {} + {}", "How much is {} and {}?",
)
MINUS = (
    "What is {} minus {}?", "What's {} minus {}?", "{}-{}", "{} - {}", "{} - {} = ?", "{}-{}=",
    "Calculate {} - {}", "What is {} - {}?", "{} minus {}", "What does {} minus {} make?",
)
DONT_KNOW = (
    ("I don't know that. I am a very small model and I only know a few things.", 8),
    ("Sorry, I don't know. I am only a very small model.", 2),
)
CANNOT = "I don't know how to do that. I am a very small model and I only know a few things."
HARD_SUM = "I don't know. I can only add and subtract small numbers."
UNCLEAR = "I don't know what to say to that. Ask me about language model serving, for example."
UNKNOWN_THING = (
    *TOPIC, "What are {}s?", "Where can I find {}?", "How is {} made?", "Why is there {}?",
    "How much does {} cost?", "Who invented {}?", "When was {} invented?", "How old is {}?",
    "What is the history of {}?", "How many kinds of {} are there?", "What is the best {}?",
    "How do I buy {}?", "What is the weight of {}?", "Is {} good for me?",
)
UNKNOWN_NAME = (
    "Who is {}?", "Who was {}?", "Where is {}?", "What is {}?", "How old is {}?",
    "Tell me about {}", "When was {} born?", "What did {} do?", "Where does {} live?",
    "Is {} famous?", "Do you know {}?",
    "What is the population of {}?", "How large is {}?", "How do I get to {}?", "Who wrote {}?",
    "Who is the king of {}?", "Who is the president of {}?", "What is the weather in {}?",
    "How far is it to {}?", "What language do they speak in {}?", "Who painted {}?",
    "What time is it in {}?", "Who is the brother of {}?", "What is the phone number of {}?",
)
UNKNOWN_EVENT = (
    "Who won the {y} {t} {e}?", "Who lost the {y} {t} {e}?", "Where was the {y} {t} {e}?",
    "When was the {t} {e} of {y}?", "How many people saw the {y} {t} {e}?", "Who played in {y}?",
    "What happened in {y}?", "Which team won the {t} {e} in {y}?", "Who was famous in {y}?",
    "What was the result of the {t} {e} in {y}?", "Who ruled in {y}?", "Who won in {y}?",
)
SPORTS = (
    "football tennis hockey cricket rowing sailing golf boxing swimming running cycling chess "
    "bridge skating ski baseball basketball rugby horse boat"
).split()
EVENTS = "cup match race game league title championship tournament semifinal medal prize".split()
TASKS = (
    "Write a letter to {}", "How do I cook {}?", "How do I repair {}?", "How can I make {}?",
    "How do you draw {}?", "Write an essay about {}", "Translate {} into French", "Sing {}",
    "Draw {}", "Give me a recipe for {}", "How do I clean {}?", "Write a program for {}",
    "Book {} for me", "Call {}", "Send {} to my friend", "How do I learn {}?", "Order {}",
    "Where do I buy {}?", "Plan a trip to {}", "Show me a picture of {}", "Play {}",
)
OTHER = (
    "What time is it?", "What day is it today?", "What is the weather like?", "Will it rain?",
    "What is the date?", "Who is the president?", "What is in the news?", "Where are my keys?",
    "What is my name?", "Who am I?", "What am I thinking?", "Which number am I thinking of?",
    "What should I eat?", "What should I wear?", "Which film should I watch?", "Who will win?",
    "What happens tomorrow?", "What is the stock price?", "How tall am I?", "What did I say?",
)
SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are Argosy.",
    "You are a friendly assistant.", "Be brief.", "Answer briefly.", "You answer questions.",
    "You are Argosy's embedded model.", "You are a careful assistant. Answer in English.",
    "Answer the question of the user.", "You are a polite and short-spoken chat model.",
)
LEAD_INS = (
    "Please tell me: ", "Hi! ", "Hello! ", "Hey, ", "Quick question: ", "I would like to know: ",
    "Tell me, ", "And ", "So, ", "Now, ", "Well, ", "Question: ", "Next question: ", "Okay, ",
    "One more thing: ", "Please: ", "Hi, ", "Argosy, ", "Can you tell me: ", "Thanks. ",
)
TAILS = (" please", ", please", " Thanks!", " now", " Please answer.", " Do you know?")


def read_facts(path: Path) -> dict[str, list[Pair]]:
    """The (key, answer) pairs of facts.tsv, by kind."""
    facts: dict[str, list[Pair]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            kind, key, answer = line.split("\t")
            facts.setdefault(kind, []).append((key, answer))
    return facts


def read_questions(path: Path) -> list[tuple[str, str, bool]]:
    """The rows of questions.tsv as (question, key words, held back)."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row[0], row[1], row[2] == "held") for row in rows if len(row) == 3]


def normal(text: str) -> str:
    """A question without case, punctuation and extra spaces."""
    return " ".join(re.findall(r"[a-z0-9+-]+", text.lower()))


def read_prose(folder: Path) -> list[str]:
    """The books in `folder` without what stands outside their START and END lines."""
    books = []
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
        text = re.split(r"\*\*\* ?START OF[^\n]*\n", text, maxsplit=1)[-1]
        text = re.split(r"\*\*\* ?END OF", text, maxsplit=1)[0]
        for fancy, plain in ("\u201c\"", "\u201d\"", "\u2018'", "\u2019'"):
            text = text.replace(fancy, plain)
        text = text.replace("_", "").replace("—", "--").strip()
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
        books.append("\n\n".join(part for part in paragraphs if part))
    if not books:
        raise SystemExit(f"no .txt files in {folder}")
    return books


def upper_first(text: str) -> str:
    """`text` with a capital at its start."""
    return text[:1].upper() + text[1:]


class Writer:
    """Draws question-answer pairs and conversations from the facts."""

    def __init__(
        self, facts: dict[str, list[Pair]], prose: list[str], held: set[str], focus: bool = False
    ) -> None:
        self.facts = facts
        self.focus = focus
        self.held = held
        text = "\n".join(prose)
        names = {name.lower() for key, _ in facts["topic"] for name in key.split("|")}
        names |= {word for name in names for word in name.split()}
        names |= {word for pair in facts["opposite"] for word in pair}
        names |= {key.split()[-1].lower() for key, _ in facts["colour"]}
        names |= {day.lower() for day in DAYS + MONTHS} | {"ice", "life", "time", "day", "name"}
        nouns = Counter(re.findall(r"\b(?:the|a|an|of|his|her) ([a-z]{4,12})\b", text))
        self.nouns = sorted(w for w, n in nouns.items() if n >= 4 and w not in names)
        people = Counter(re.findall(r"[a-z,;] ([A-Z][a-z]{3,11})\b", text))
        countries = {key.split()[-1].lower() for key, _ in facts["capital"]}
        known = names | countries | {"argosy", "alice", "sherlock", "holmes", "dracula"}
        self.people = sorted(w for w, n in people.items() if n >= 3 and w.lower() not in known)
        sentences = re.findall(r"[A-Z][a-z][^.!?\n]{8,60}[.!]", text)
        self.sentences = [sentence for sentence in sentences if '"' not in sentence]
        weights = (16, 40, 8, 6, 5, 3, 22, 14) if focus else (34, 28, 9, 6, 5, 3, 6, 11)
        kinds: tuple[Maker, ...] = (
            self.topic, self.ask, self.capital, self.colour,
            self.opposite, self.calendar, self.sum, self.unknown,
        )
        self.makers = list(zip(kinds, weights, strict=True))

    def topic(self, r: random.Random) -> Pair:
        """A question about a word of the trade."""
        key, answer = r.choice(self.facts["topic"])
        name = r.choice(key.split("|"))
        if r.random() < 0.15:
            name = re.sub(r"^(an?|the) ", "", name)
        return upper_first(r.choice(TOPIC).format(name)), answer

    def ask(self, r: random.Random) -> Pair:
        """One of the questions that are written out in full."""
        key, answer = r.choice(self.facts["ask"])
        names = key.split("|")
        if self.focus:
            sizes = [len(key.split("|")) for key, _ in self.facts["ask"]]
            key, answer = r.choices(self.facts["ask"], sizes)[0]
            names = [key.split("|")[0], key.split("|")[0], *key.split("|")]
        return r.choice(names), answer

    def capital(self, r: random.Random) -> Pair:
        """A capital."""
        country, city = r.choice(self.facts["capital"])
        question = upper_first(r.choice(CAPITAL).format(country))
        return question, f"The capital of {country} is {city}."

    def colour(self, r: random.Random) -> Pair:
        """A colour."""
        thing, colour = r.choice(self.facts["colour"])
        return r.choice(COLOUR).format(thing), f"{upper_first(thing)} is {colour}."

    def opposite(self, r: random.Random) -> Pair:
        """An opposite, in either direction."""
        pair = r.choice(self.facts["opposite"])
        word, other = pair if r.random() < 0.5 else pair[::-1]
        return r.choice(OPPOSITE).format(word), f"The opposite of {word} is {other}."

    def calendar(self, r: random.Random) -> Pair:
        """The day or month after or before another."""
        kind, names = ("day", DAYS) if r.random() < 0.6 else ("month", MONTHS)
        i = r.randrange(len(names))
        step, patterns = (1, AFTER) if r.random() < 0.6 else (-1, BEFORE)
        word = "after" if step == 1 else "before"
        answer = f"The {kind} {word} {names[i]} is {names[(i + step) % len(names)]}."
        return r.choice(patterns).format(k=kind, x=names[i]), answer

    def sum(self, r: random.Random) -> Pair:
        """A sum or a difference of numbers up to ten."""
        a, b = r.randint(0, 10), r.randint(0, 10)
        plus = r.random() < 0.6
        if not plus and a < b:
            a, b = b, a
        pattern = r.choice(PLUS if plus else MINUS)
        words = r.random() < 0.2
        question = pattern.format(*((NUMBERS[a], NUMBERS[b]) if words else (a, b)))
        sign, result = ("plus", a + b) if plus else ("minus", a - b)
        return upper_first(question), f"{a} {sign} {b} is {result}."

    def unknown(self, r: random.Random) -> Pair:
        """A question or remark that the model cannot answer."""
        answer = r.choices([a for a, _ in DONT_KNOW], [w for _, w in DONT_KNOW])[0]
        noun, name, kind = r.choice(self.nouns), r.choice(self.people), r.random()
        if r.random() < 0.3:
            noun = f"{noun} {r.choice(self.nouns)}"
        thing = r.choice(("", "", "a ", "the ")) + noun
        if kind < 0.32:
            return upper_first(r.choice(UNKNOWN_THING).format(thing)), answer
        if kind < 0.55:
            return r.choice(UNKNOWN_NAME).format(name), answer
        if kind < 0.65:
            place = r.choice((name, name, thing))
            return upper_first(r.choice(CAPITAL).format(place)), answer
        if kind < 0.77:
            words = {"y": r.randint(1500, 2030), "t": r.choice(SPORTS), "e": r.choice(EVENTS)}
            return r.choice(UNKNOWN_EVENT).format(**words), answer
        if kind < 0.85:
            return r.choice(TASKS).format(r.choice((thing, thing, name))), CANNOT
        if kind < 0.89:
            return r.choice(OTHER), answer
        if kind < 0.93:
            return r.choice(PLUS + MINUS).format(r.randint(21, 9999), r.randint(21, 9999)), HARD_SUM
        return r.choice(self.sentences), UNCLEAR

    def pair(self, r: random.Random) -> Pair:
        """Any pair, its question varied in case, punctuation and spelling, none held back."""
        while True:
            maker = r.choices([m for m, _ in self.makers], [w for _, w in self.makers])[0]
            question, answer = maker(r)
            question = vary(question, r)
            if normal(question) not in self.held:
                return question, answer

    def conversation(self, r: random.Random) -> list[dict[str, str]]:
        """A conversation of one or several turns, sometimes with a system message."""
        kind = r.random()
        turns = 1 if kind < 0.5 else r.randint(2, 5) if kind < 0.995 else r.randint(15, 40)
        messages = []
        if r.random() < 0.15:
            messages.append({"role": "system", "content": r.choice(SYSTEMS)})
        for _ in range(turns):
            question, answer = self.pair(r)
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return messages


def typo(text: str, r: random.Random) -> str:
    """`text` with two neighbouring letters swapped, or one lost or doubled."""
    i = r.randrange(max(1, len(text) - 2)) + 1
    kind = r.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1 : i + 2] + text[i : i + 1] + text[i + 2 :]
    return text[:i] + text[i + 1 :] if kind == 1 else text[:i] + text[i : i + 1] + text[i:]


def vary(question: str, r: random.Random) -> str:
    """The question as different people would type it."""
    if r.random() < 0.12:
        lead = r.choice(LEAD_INS)
        keep = question.startswith(("I ", "Argosy")) or question[1:2].isupper()
        question = lead + (question if keep else question[0].lower() + question[1:])
    if r.random() < 0.35:
        question = question.rstrip("?.!")
    if r.random() < 0.05:
        question += r.choice(TAILS)
    if len(question) > 9 and r.random() < 0.06:
        question = typo(question, r)
    case = r.random()
    if case < 0.3:
        return question.lower()
    return question.upper() if case < 0.42 else question


def conversations(writer: Writer, count: int, seed: int) -> Iterator[list[dict[str, str]]]:
    """`count` conversations, always the same for one seed."""
    r = random.Random(seed)
    for _ in range(count):
        yield writer.conversation(r)


def main() -> None:
    """Write prose.txt and chat.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=os.environ.get("ARGOSY_TEST_DATA"))
    parser.add_argument("--out", type=Path, default=HERE / "data")
    parser.add_argument("--count", type=int, default=150_000, help="number of conversations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--focus", action="store_true", help="more greetings, sums and unknowns")
    args = parser.parse_args()
    if args.text is None:
        parser.error("give --text, or set ARGOSY_TEST_DATA to the folder of texts")
    prose = read_prose(Path(args.text))
    held = {normal(q) for q, _, is_held in read_questions(HERE / "questions.tsv") if is_held}
    writer = Writer(read_facts(HERE / "facts.tsv"), prose, held, args.focus)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "prose.txt").write_text("\n\n\n".join(prose), encoding="utf-8")
    with (args.out / "chat.jsonl").open("w", encoding="utf-8") as file:
        for messages in conversations(writer, args.count, args.seed):
            file.write(json.dumps(messages, ensure_ascii=False) + "\n")
    sizes = f"{sum(map(len, prose)):,} characters of prose, {args.count:,} conversations"
    print(f"{args.out}: {sizes}; {len(writer.nouns)} nouns, {len(writer.people)} names")


if __name__ == "__main__":
    main()
