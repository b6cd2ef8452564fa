"""The answer first: one sentence, key figures, what fell short, what to do next."""

from __future__ import annotations

from paretune.reports.answer import Answer, find_answer, quality_sentence, size_sentence, speed_sentence
from paretune.reports.markup import Safe, bullet_list, command, element, joined, unbroken
from paretune.reports.next_steps import next_steps
from paretune.reports.reading import RunFolder
from paretune.reports.sections.cards import cards
from paretune.reports.sections.section import Section, paragraph, stacked
from paretune.reports.shortfalls import shortfalls


def headline(folder: RunFolder) -> Section:
    """What a reader takes away who reads nothing else."""
    answer = find_answer(folder)
    fell_short = [unbroken(text) for text in shortfalls(folder)]
    steps = [
        element("div", paragraph(words, class_="step"), command(text)) for words, text in next_steps(folder)
    ]
    reason = folder.front.recommended_reason
    short = element("div", element("h3", "What fell short"), bullet_list(fell_short), class_="short")
    body = stacked(
        paragraph(_sentence(answer), class_="answer"),
        paragraph(unbroken(reason)) if reason else None,
        element("div", *cards(folder, answer), class_="cards"),
        short if fell_short else None,
        element("div", element("h3", "Next"), *steps, class_="next"),
    )
    return Section("answer", "The answer", "Answer", body)


def _sentence(answer: Answer) -> Safe:
    if answer.recommended is None:
        return joined(["No candidate meets the limits. The front below shows how near the run came."])
    if answer.recommended.name == "dense":
        return joined(
            [element("strong", "Leave the model as it is"), ": nothing that was found is worth its loss."]
        )
    parts = [
        text for text in (size_sentence(answer), quality_sentence(answer), speed_sentence(answer)) if text
    ]
    if not parts:
        return joined([element("strong", answer.recommended.name), " is the recommended configuration."])
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"
    return joined([element("strong", answer.recommended.name), " ", unbroken(f"{listed}.")])
