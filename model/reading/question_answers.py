"""The output column of annotate with a question list: the answers of a document to every question.

The columns of asks, which are numbered row by row, become one list of structs for each row.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import pyarrow as pa

from model.reading.question_list import QuestionList

QUESTION_ANSWERS = "question_answers"
"""The name of the column."""

ASKED = (pa.field("question_id", pa.string()), pa.field("question", pa.string()))
"""The first fields of each struct; annotate's columns follow."""


def question_answers_type(answers: pa.Schema) -> pa.DataType:
    """Return the type of the column, for answers with these columns."""
    return pa.list_(pa.struct([*ASKED, *answers]))


def question_answers(answers: pa.Table, questions: QuestionList) -> pa.Array:
    """Return the column of the rows that were asked all questions.

    answers  [rows x questions], annotate's columns of each ask
    """
    count = len(questions)
    rows = answers.num_rows // count
    asked = [pa.array(texts * rows, pa.string()) for texts in (questions.ids, questions.texts)]
    columns = [column.combine_chunks() for column in answers.columns]
    kind = question_answers_type(answers.schema)
    structs = pa.StructArray.from_arrays(list(chain(asked, columns)), fields=list(kind.value_type))
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * count, pa.int32())
    return pa.ListArray.from_arrays(offsets, structs, type=kind)
