"""The answer first: one sentence, four figures, what fell short, what to do next."""

from __future__ import annotations

from reports.answer import (
    Answer,
    equal_quality_words,
    find_answer,
    quality_sentence,
    size_sentence,
    speed_sentence,
    speed_words,
    uniform_words,
)
from reports.comparison import cost, cost_ratio, mean_retention, retention, task_names
from reports.markup import Safe, bullet_list, command, element, joined
from reports.next_steps import next_steps
from reports.numerals import change, counted, digits, measured, percent, quantity
from reports.reading import RunFolder
from reports.sections.section import Section, paragraph, stacked
from reports.shortfalls import shortfalls


def headline(folder: RunFolder) -> Section:
    """What a reader takes away who reads nothing else."""
    answer = find_answer(folder)
    cards = [
        card for card in (_size(answer), _quality(answer), _speed(answer), _tasks(folder, answer)) if card
    ]
    fell_short = shortfalls(folder)
    steps = [stacked(paragraph(words, class_="step"), command(text)) for words, text in next_steps(folder)]
    body = stacked(
        paragraph(_sentence(answer), class_="answer"),
        paragraph(folder.front.pick_reason) if folder.front.pick_reason else None,
        element("div", *cards, class_="cards"),
        element("div", element("h3", "What fell short"), bullet_list(fell_short), class_="short")
        if fell_short
        else None,
        element("div", element("h3", "Next"), *steps, class_="next"),
    )
    return Section("answer", "The answer", body)


def _sentence(answer: Answer) -> Safe:
    if answer.pick is None:
        return joined(["No candidate meets the limits. The front below shows how near the run came."])
    if answer.pick.name == "dense":
        return joined(
            [element("strong", "Leave the model as it is"), ": nothing that was found is worth its loss."]
        )
    parts = [
        text for text in (size_sentence(answer), quality_sentence(answer), speed_sentence(answer)) if text
    ]
    listed = (
        parts[0]
        if len(parts) == 1
        else f"{', '.join(parts[:-1])}, and {parts[-1]}"
        if parts
        else "was picked"
    )
    return joined([element("strong", answer.pick.name), f" {listed}."])


def _card(title: str, value: str, *notes: str) -> Safe:
    shown = [element("p", note) for note in notes if note]
    return element("div", element("h3", title), element("p", value, class_="value"), *shown, class_="card")


def _size(answer: Answer) -> Safe | None:
    if answer.pick is None or (size := answer.pick.value("weight_bytes")) is None:
        return None
    full = None if answer.dense is None else answer.dense.value("weight_bytes")
    against = f"{change(size / full)} against dense ({quantity(full, 'B')})" if full else ""
    bits = answer.pick.value("average_bits")
    return _card(
        "Size",
        quantity(size, "B"),
        against,
        equal_quality_words(answer),
        "" if bits is None else f"{digits(bits)} bits a weight inside the blocks",
    )


def _quality(answer: Answer) -> Safe | None:
    if answer.pick is None or (kl := answer.pick.measurements.get("kl")) is None:
        return None
    agreement, base = answer.pick.value("top1_agreement"), answer.dense
    perplexity = [None if row is None else row.value("perplexity") for row in (answer.pick, base)]
    words = uniform_words(answer)
    return _card(
        "Quality loss",
        f"{digits(kl.value)} nat",
        f"KL to dense, {measured(kl)} a token",
        words[0].upper() + words[1:],
        "" if agreement is None else f"{percent(agreement)} of tokens have the dense model's top choice",
        ""
        if perplexity[0] is None or perplexity[1] is None
        else f"Perplexity {digits(perplexity[0])}, dense {digits(perplexity[1])}",
    )


def _speed(answer: Answer) -> Safe | None:
    if answer.pick is None or (found := cost(answer.pick, "tpot_s")) is None:
        return None
    own, predicted = found
    notes = []
    ratio = None if answer.dense is None else cost_ratio(answer.pick, answer.dense, "tpot_s")
    if ratio is not None:
        notes.append(speed_words(ratio[0]).capitalize())
    if (
        answer.uniform is not None
        and (beside := cost_ratio(answer.pick, answer.uniform, "tpot_s")) is not None
    ):
        notes.append(f"{change(beside[0])} time against {answer.uniform.name}")
    first = cost(answer.pick, "ttft_s")
    if first is not None:
        notes.append(f"First token after {quantity(first[0].value, 's')}{' (predicted)' if first[1] else ''}")
    title = f"Time per token, {'predicted' if predicted else 'measured'}"
    return _card(title, quantity(own.value, "s"), *notes)


def _tasks(folder: RunFolder, answer: Answer) -> Safe | None:
    if answer.pick is None or answer.dense is None:
        return None
    names = task_names(folder.front)
    mean = mean_retention(answer.pick, answer.dense, names)
    kept = [one for name in names if (one := retention(answer.pick, answer.dense, name)) is not None]
    if mean is None or not kept:
        return None
    worst = min(kept, key=lambda one: one.ratio)
    lost = [one.task for one in kept if one.clear]
    beside = None if answer.uniform is None else mean_retention(answer.uniform, answer.dense, names)
    return _card(
        "Capabilities kept",
        percent(mean),
        f"Mean of {counted(len(kept), 'task')}, as a share of dense",
        f"Least: {worst.task} {percent(worst.ratio)}"
        + (f" ± {percent(worst.stderr)}" if worst.stderr else ""),
        f"{answer.uniform.name}: {percent(beside)}"
        if answer.uniform is not None and beside is not None
        else "",
        f"Clearly lower: {', '.join(lost)}" if lost else "None clearly lower than dense",
    )
