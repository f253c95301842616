"""Expressions over judgments, such as `score >= 2 and docid.endswith("_synth")`.

They look like Python and are parsed with `ast`, but only what stands here is evaluated, on whole columns
at once: nothing can be imported, called or reached from them.

Names: qid, docid (texts), score (a number); also as rec["qid"], rec["docid"], rec["score"]. Operators:
and, or, not, comparisons (chained too), in, +, -, *, /, //, %, `a if condition else b`. Methods of texts:
startswith, endswith. Functions: len, abs, min, max, floor, ceil.

Every row gets what Python gives for it; `and`, `or` and `if` guard a division by zero as there, and one
without a guard is an error. and, or join conditions only.
"""

import ast
import operator
import warnings
from functools import reduce

from trove_steps.data.arrays import from_booleans, from_strings, to_numpy
from trove_steps.errors import TroveStepsError

NAMES = {"qid": "query_id", "docid": "doc_id", "score": "score"}
LONGEST = 2000  # characters
ALLOWED = (
    "allowed are qid, docid, score, numbers, texts, comparisons, in, and, or, not, + - * / // %, a if b "
    "else c, startswith, endswith, len, abs, min, max, floor, ceil; for more, name a function of your "
    "own as module:function"
)
COMPARISONS = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
ARROW_COMPARISONS = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
DIVISIONS = (ast.Div, ast.FloorDiv, ast.Mod)
INT64 = 2.0**63


class _Refused(Exception):
    """What an expression may not hold; the message says what."""


class Texts:
    """A column of strings."""

    def __init__(self, column):
        self.column = column


def evaluate(expression: str, table, wanted: str):
    """Return the value of an expression for every row of a table of judgments, numpy [n].

    table: columns query_id, doc_id (strings), score (numbers).
    wanted: "truth" gives bool, "number" gives int64 or float64. Raises TroveStepsError.
    """
    import numpy as np

    try:
        if len(expression) > LONGEST:
            raise _Refused(f"it is longer than {LONGEST} characters")
        with warnings.catch_warnings(action="ignore"):  # such as: 1if is deprecated
            tree = ast.parse(expression.strip(), mode="eval").body
        with np.errstate(all="ignore"):
            value = _Evaluation(table).value(tree)
        return _finished(value, table.num_rows, wanted)
    except SyntaxError as error:
        reason = f"it is no expression ({error.msg})"
    except _Refused as error:
        reason = str(error)
    except (TypeError, ValueError, OverflowError) as error:
        reason = f"it can't be computed ({error})"
    except (RecursionError, MemoryError):
        reason = "it is nested too deeply"
    raise TroveStepsError(f"{expression!r:.100}: {reason}; {ALLOWED}") from None


def check(expression: str, wanted: str) -> None:
    """Raise TroveStepsError unless an expression can be evaluated, as far as it can be told without data."""
    from trove_steps.data.judgments import judgment_columns

    evaluate(expression, judgment_columns([], [], []), wanted)


def _finished(value, rows: int, wanted: str):
    import numpy as np

    array = np.asarray(None if isinstance(value, Texts | tuple) else value)
    if wanted == "truth":
        if array.dtype != bool:
            raise _Refused("it is no condition: it must be true or false, as with score >= 1")
    elif array.dtype == bool:
        array = array.astype(np.int64)
    elif array.dtype.kind not in "if":
        raise _Refused("it is no number")
    if wanted == "number" and not np.isfinite(array).all():
        raise _Refused("it gives a score that is no finite number: too large, or divided by zero")
    kind = {"b": bool, "i": np.int64, "f": np.float64}[array.dtype.kind]
    return np.ascontiguousarray(np.broadcast_to(array.astype(kind), (rows,)))


class _Evaluation:
    """Evaluates nodes over the columns of a table; every kind of node that is allowed has a method."""

    def __init__(self, table):
        self.table = table

    def value(self, node: ast.AST):
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            raise _Refused(f"{ast.unparse(node)[:60]!r} is not allowed")
        return method(node)

    def _Constant(self, node):
        if not isinstance(node.value, str | int | float | bool):
            raise _Refused(f"{ast.unparse(node)[:60]!r} is not allowed")
        return node.value

    def _Name(self, node):
        if node.id not in NAMES:
            raise _Refused(f"the name {node.id!r} is unknown")
        column = self.table[NAMES[node.id]]
        return to_numpy(column) if node.id == "score" else Texts(column)

    def _Subscript(self, node):
        named = isinstance(node.value, ast.Name) and node.value.id in ("rec", "record", "x")
        if not named or not isinstance(node.slice, ast.Constant):
            raise _Refused(f"{ast.unparse(node)[:60]!r} is not allowed")
        return self._Name(ast.Name(str(node.slice.value)))

    def _Tuple(self, node):
        values = tuple(self.value(item) for item in node.elts)
        if not all(isinstance(value, str | int | float | bool) for value in values):
            raise _Refused("a list may hold numbers and texts only")
        return values

    _List = _Set = _Tuple

    def _BoolOp(self, node):
        import numpy as np

        both = isinstance(node.op, ast.And)
        found = self._condition(node.values[0])
        for item in node.values[1:]:
            # What is decided already is not looked at: it may divide by zero.
            value = self._on(found if both else ~found, item, _Evaluation._condition)
            found = np.logical_and(found, value) if both else np.logical_or(found, value)
        return found

    def _on(self, rows, node, method):
        """Evaluate a node on some rows (bool, [n] or a single one); what the others get means nothing."""
        import numpy as np

        if not any(isinstance(part, DIVISIONS) for part in ast.walk(node)):
            return method(self, node)
        rows = np.broadcast_to(rows, (self.table.num_rows,))
        part = method(_Evaluation(self.table.filter(from_booleans(rows))), node)
        found = np.zeros(len(rows), np.asarray(part).dtype)
        found[rows] = part
        return found

    def _UnaryOp(self, node):
        import numpy as np

        if isinstance(node.op, ast.Not):
            return np.logical_not(self._truth(node.operand))
        compute = {ast.USub: operator.neg, ast.UAdd: operator.pos}.get(type(node.op), _refuse)
        return compute(self._negatable(node.operand))

    def _BinOp(self, node):
        import numpy as np

        compute = ARITHMETIC.get(type(node.op))
        if compute is None:
            raise _Refused(f"{ast.unparse(node)[:60]!r} is not allowed")
        left, right = np.asarray(self._number(node.left)), np.asarray(self._number(node.right))
        if isinstance(node.op, DIVISIONS):
            self._require((right != 0).all(), node, "divides by zero for some judgments")
        found = compute(left, right)
        if found.dtype.kind == "i":  # it would wrap around
            self._require_int64(compute(left.astype(float), right.astype(float)), node)
        return found

    def _negatable(self, node):
        """Return the number of a node; -(2**63), whose negative is itself in 64 bits, is refused."""
        import numpy as np

        number = self._number(node)
        if np.asarray(number).dtype.kind == "i":
            fits = np.all(number > -(2**63))
            self._require(fits, node, "does not fit into 64 bits once negated")
        return number

    def _require(self, right, node, mistake: str) -> None:
        """Raise _Refused unless something is right, or there is no judgment for which it is wrong."""
        if self.table.num_rows and not right:
            raise _Refused(f"{ast.unparse(node)[:60]!r} {mistake}")

    def _require_int64(self, numbers, node) -> None:
        import numpy as np

        self._require((np.abs(numbers) < INT64).all(), node, "does not fit into 64 bits")

    def _IfExp(self, node):
        import numpy as np

        test = self._truth(node.test)
        body = self._on(test, node.body, _Evaluation._number)
        return np.where(test, body, self._on(~test, node.orelse, _Evaluation._number))

    def _Compare(self, node):
        import numpy as np

        values = [self.value(item) for item in (node.left, *node.comparators)]
        parts = [
            _compare(op, left, right)
            for op, left, right in zip(node.ops, values, values[1:], strict=False)
        ]
        return reduce(np.logical_and, parts)

    def _Call(self, node):
        import numpy as np

        if node.keywords:
            raise _Refused("an argument can't be named")
        if isinstance(node.func, ast.Attribute):
            return self._method(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "len" and len(node.args) == 1:
            return _length(self.value(node.args[0]))
        if name == "abs" and len(node.args) == 1:
            return np.abs(self._negatable(node.args[0]))
        rounding = {"floor": np.floor, "ceil": np.ceil}
        if name in rounding and len(node.args) == 1:
            number = np.asarray(self._number(node.args[0]))
            if number.dtype.kind == "i":
                return number
            found = rounding[name](number)
            self._require_int64(found, node)
            return found.astype(np.int64)
        several = {"min": np.minimum, "max": np.maximum}
        if name in several and len(node.args) > 1:
            return reduce(several[name], [self._number(item) for item in node.args])
        raise _Refused(f"{ast.unparse(node)[:60]!r} is not allowed")

    def _method(self, node):
        import numpy as np
        import pyarrow.compute as pc

        functions = {"startswith": pc.starts_with, "endswith": pc.ends_with}
        texts = self.value(node.func.value)
        if node.func.attr not in functions or len(node.args) != 1 or not isinstance(texts, Texts):
            raise _Refused(f"{ast.unparse(node)[:60]!r} is not allowed")
        wanted = self.value(node.args[0])
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        if not wanted or not all(isinstance(text, str) for text in wanted):
            raise _Refused(f"{node.func.attr} takes a text")
        found = [_booleans(functions[node.func.attr](texts.column, text)) for text in wanted]
        return reduce(np.logical_or, found)

    def _condition(self, node):
        import numpy as np

        value = np.asarray(None if isinstance(found := self.value(node), Texts | tuple) else found)
        if value.dtype != bool:
            raise _Refused(
                f"{ast.unparse(node)[:60]!r} is no condition: and, or join conditions, such as score != 0"
            )
        return value

    def _truth(self, node):
        import numpy as np

        value = self.value(node)
        if isinstance(value, Texts | tuple | str):
            raise _Refused(f"{ast.unparse(node)[:60]!r} is no condition")
        return np.asarray(value) != 0

    def _number(self, node):
        import numpy as np

        value = self.value(node)
        if isinstance(value, Texts | tuple | str):
            raise _Refused(f"{ast.unparse(node)[:60]!r} is no number")
        if isinstance(value, bool):
            return int(value)
        # numpy's sum of two conditions is true, which is 1.
        return value.astype(np.int64) if np.asarray(value).dtype == bool else value


def _refuse(_):
    raise _Refused("the operator ~ is not allowed")


def _booleans(column):
    """Return an Arrow column of booleans as numpy bool [n]."""
    import pyarrow as pa

    return to_numpy(column.cast(pa.uint8())).astype(bool)


def _length(value):
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(value, Texts):
        raise _Refused("len takes qid or docid")
    return to_numpy(pc.utf8_length(value.column).cast(pa.int64()))


def _compare(op: ast.cmpop, left, right):
    """Return left op right as numpy bool, [n] or a single one."""
    import numpy as np
    import pyarrow.compute as pc

    if isinstance(op, ast.In | ast.NotIn):
        found = _contained(left, right)
        return np.logical_not(found) if isinstance(op, ast.NotIn) else found
    if type(op) not in COMPARISONS:
        raise _Refused("'is' is not allowed; write ==")
    sides = (left, right)
    if any(isinstance(side, tuple) for side in sides):
        raise _Refused("a list can only stand behind in")
    if any(isinstance(side, Texts) for side in sides):
        if not all(isinstance(side, Texts | str) for side in sides):
            raise _Refused('an id is a text: write qid == "7", with quotes')
        columns = [side.column if isinstance(side, Texts) else side for side in sides]
        return _booleans(getattr(pc, ARROW_COMPARISONS[type(op)])(*columns))
    if any(isinstance(side, str) for side in sides):
        raise _Refused("a number can't be compared with a text")
    return np.asarray(COMPARISONS[type(op)](left, right))


def _contained(item, among):
    import numpy as np
    import pyarrow.compute as pc

    if isinstance(item, Texts) and isinstance(among, tuple):
        if not all(isinstance(text, str) for text in among):
            raise _Refused("an id is a text: write it with quotes")
        return _booleans(pc.is_in(item.column, value_set=from_strings(list(among))))
    if isinstance(item, str) and isinstance(among, Texts):
        return _booleans(pc.match_substring(among.column, item))
    if isinstance(item, Texts | str | tuple) or not isinstance(among, tuple):
        raise _Refused("in takes an id or the score and a list, or a text and an id")
    numbers = [value for value in among if not isinstance(value, str)]
    return reduce(np.logical_or, [np.asarray(item == n) for n in numbers], np.zeros((), bool))
