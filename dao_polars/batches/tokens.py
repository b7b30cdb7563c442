"""Cells as the tokens of foundation models: vocabularies, encodings, and what batches have of them.

Owns what a vocabulary is, and which of its genes a selection has. Which tokens a cell has is the
core's (`src/encode`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .._args import integer
from .._core import TokenEncoding
from ..errors import DaoKeyError, DaoTypeError, DaoValueError
from ..genes.request import Genes, first_few
from ..select.selection import Selection
from .sampling import digest

_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a batch, row ``i`` of the cell of row ``i`` of x.

    Attributes:
        input_ids: the tokens, (n_cells, length) int64, padded at the end.
        attention_mask: whether a place has a token, (n_cells, length) bool.
        bins: the bins of the tokens' values, (n_cells, length) int64; None of ranks.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.bool_]
    bins: NDArray[np.int64] | None = None

    def entries(self) -> dict[str, NDArray[Any]]:
        """The arrays by their names among tensors."""
        bins = {} if self.bins is None else {"bins": self.bins}
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, **bins}


class Encoding(ABC):
    """What ``RankEncoding`` and ``BinEncoding`` have in common: a vocabulary and the form of a row.

    Attributes:
        genes: the genes of the vocabulary, in its order.
        tokens: the token of each, (n_genes,) int64.
        length: places of a row.
    """

    _dtypes: ClassVar[dict[str, type[np.generic]]] = {
        "input_ids": np.int64,
        "attention_mask": np.bool_,
    }

    def __init__(
        self,
        vocabulary: Any,
        length: int,
        pad: int | str,
        cls: int | str | None,
        eos: int | str | None,
    ) -> None:
        self.length = integer("length", length, 1, 2**31 - 1)
        frame = _vocabulary(vocabulary)
        names = dict(zip(frame["gene"].to_list(), frame["token"].to_list(), strict=True))
        special = {"pad": pad, "cls": cls, "eos": eos}
        self._special: dict[str, Any] = {
            name: _token(name, value, names) for name, value in special.items()
        }
        # A special token that is an entry of the vocabulary is no gene.
        frame = frame.filter(~pl.col("gene").is_in([v for v in special.values() if v in names]))
        for name, token in self._special.items():
            if token is not None and (clash := frame.filter(pl.col("token") == token)).height:
                raise DaoValueError(
                    f"{name}={special[name]!r}: the vocabulary has this token for gene "
                    f"{clash['gene'][0]!r}; name an entry that is no gene ('<pad>', say), or a "
                    "token that no gene has"
                )
        given = [token for token in self._special.values() if token is not None]
        if len(set(given)) < len(given):
            raise DaoValueError(f"pad, cls and eos are the same token: {self._special}")
        self._frame = frame

    @property
    def genes(self) -> list[str]:  # noqa: D102  (an attribute, described above)
        return self._frame["gene"].to_list()

    @property
    def tokens(self) -> NDArray[np.int64]:  # noqa: D102  (an attribute, described above)
        return self._frame["token"].to_numpy()

    def _genes_in(self, selections: list[Selection], gene_key: str | None) -> list[str]:
        """The genes of the vocabulary that some dataset of the selections has.

        Raises:
            DaoKeyError: none of them.
        """
        found = [s.gene_names(s.resolve("union", gene_key, "first"), gene_key) for s in selections]
        there = pl.concat(found)
        genes = self._frame.filter(pl.col("gene").is_in(there.implode()))["gene"].to_list()
        if not genes:
            raise DaoKeyError(
                f"no dataset has a gene of the vocabulary, whose genes are {first_few(self.genes)};"
                f" theirs are {first_few(there.to_list())}. gene_key= names the column of var that "
                "has the vocabulary's names"
            )
        return genes

    def _columns(self, genes: list[str]) -> dict[str, Any]:
        """What the core needs of these genes of the vocabulary, which are the columns of rows."""
        wanted = pl.DataFrame({"gene": genes}, schema={"gene": pl.String})
        found = wanted.join(self._frame, on="gene", how="left", maintain_order="left")
        return {f"{name}s": found[name].to_numpy() for name in found.columns if name != "gene"}

    @abstractmethod
    def _core(self, columns: dict[str, Any]) -> TokenEncoding:
        """The core's encoding of rows with these columns. Needs none of polars' threads."""

    @property
    def _settings(self) -> dict[str, Any]:
        """What makes tokens what they are, as JSON has it."""
        columns = [self._frame[name].to_list() for name in self._frame.columns]
        form = {"length": self.length} | self._special
        return {"kind": type(self).__name__, "vocabulary": digest(columns), **form}

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self._frame.height:,} genes, length {self.length:,}"


class RankEncoding(Encoding):
    """The genes of a cell by rank, as Geneformer reads them: ``iter_batches(encode=…)``.

    A cell's tokens are those of its genes with a value above 0, the one first whose value is the
    largest multiple of the gene's median; of genes that tie, the vocabulary's first. Only the
    first ``length`` are kept. Values are those of ``batch.x``; a cell's total changes no rank, so
    that counts need no ``normalize``.

    Source: ``TranscriptomeTokenizer`` of Geneformer, Theodoris et al. 2023,
    <https://doi.org/10.1038/s41586-023-06139-9>; ranks are of 64-bit quotients, without its
    division by the total, which may round two genes to a tie.

    Args:
        vocabulary: a frame (polars or pandas) with the columns ``gene``, ``token`` (≥ 0) and
            ``median`` (> 0), or a mapping of gene to token, with ``medians``. Genes without a
            median are not ranked.
        length: places of a row, special tokens among them.
        medians: the median of each gene, where ``vocabulary`` is a mapping.
        pad: the token of places without one, or its name in the vocabulary.
        cls: the token before the genes, likewise; None: none.
        eos: the token after the last gene, likewise; None: none.

    Attributes:
        genes: the genes of the vocabulary, in its order.
        tokens: the token of each, (n_genes,) int64.
        length: places of a row.

    Raises:
        DaoValueError: what is no vocabulary, a length without a place for a gene.
        DaoTypeError: arguments of the wrong type.
        DaoKeyError: a name that the vocabulary lacks.
    """

    def __init__(
        self,
        vocabulary: Any,
        length: int = 2048,
        *,
        medians: Mapping[str, float] | None = None,
        pad: int | str = 0,
        cls: int | str | None = None,
        eos: int | str | None = None,
    ) -> None:
        super().__init__(vocabulary, length, pad, cls, eos)
        if medians is not None:
            if "median" in self._frame.columns:
                raise DaoValueError("medians= beside a vocabulary that has medians; give one")
            table = _pairs(medians, "medians", "median")
            self._frame = self._frame.join(table, on="gene", how="left", maintain_order="left")
        if "median" not in self._frame.columns:
            raise DaoValueError(
                "the vocabulary has no medians; expected a column median, or medians="
            )
        try:
            values = self._frame["median"].cast(pl.Float64)
        except pl.exceptions.PolarsError:
            raise DaoTypeError(
                f"medians are {self._frame['median'].dtype}; expected numbers"
            ) from None
        self._frame = self._frame.with_columns(median=values).drop_nulls("median")
        wrong = self._frame.filter(~(pl.col("median").is_finite() & (pl.col("median") > 0)))
        if wrong.height:
            gene, median = wrong.select("gene", "median").row(0)
            raise DaoValueError(f"gene {gene!r} has the median {median}; expected one above 0")
        self._core(self._columns([]))

    def _core(self, columns: dict[str, Any]) -> TokenEncoding:
        return TokenEncoding.ranks(**columns, length=self.length, **self._special)


class BinEncoding(Encoding):
    """The genes of a cell with binned values, as scGPT reads them: ``iter_batches(encode=…)``.

    A cell's tokens are those of its genes with a value that is not 0, in the vocabulary's order.
    The bin of a value is the number of ``n_bins - 1`` quantiles of the cell's values (of all
    genes of the vocabulary that are not 0) that it reaches: ``np.digitize(values,
    np.quantile(values, np.linspace(0, 1, n_bins - 1)))``. Of more genes than there are places a
    random sample is kept, a new one each epoch, which ``seed``, the epoch, the cell's key and the
    tokens fix: those with the lowest ``mix(mix(mix(mix(seed) ^ epoch) ^ key) ^ token)``, where
    ``mix`` gives the number of SplitMix64 that follows a state.

    Source: ``binning`` (with ``side="one"``) and ``DataCollator`` of scGPT, Cui et al. 2024,
    <https://doi.org/10.1038/s41592-024-02201-0>.

    Args:
        vocabulary: a frame (polars or pandas) with the columns ``gene`` and ``token`` (≥ 0), or a
            mapping of gene to token.
        length: places of a row, special tokens among them.
        n_bins: bins, with the one of zeros, which special tokens have.
        pad: the token of places without one, or its name in the vocabulary.
        pad_bin: the bin of such places.
        cls: the token before the genes, likewise; None: none.
        eos: the token after the last gene, likewise; None: none.
        seed: of the samples, 0 to 2**64 - 1.

    Attributes:
        genes: the genes of the vocabulary, in its order.
        tokens: the token of each, (n_genes,) int64.
        length: places of a row.

    Raises:
        DaoValueError: what is no vocabulary, a length without a place for a gene.
        DaoTypeError: arguments of the wrong type.
        DaoKeyError: a name that the vocabulary lacks.
    """

    _dtypes: ClassVar[dict[str, type[np.generic]]] = Encoding._dtypes | {"bins": np.int64}

    def __init__(
        self,
        vocabulary: Any,
        length: int = 1200,
        *,
        n_bins: int = 51,
        pad: int | str = 0,
        pad_bin: int = -2,
        cls: int | str | None = None,
        eos: int | str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(vocabulary, length, pad, cls, eos)
        self._frame = self._frame.select("gene", "token")
        self._bins: dict[str, Any] = {
            "n_bins": integer("n_bins", n_bins, 2, 2**16),
            "pad_bin": integer("pad_bin", pad_bin, -(2**63), _MOST),
            "seed": integer("seed", seed, 0, 2**64 - 1),
        }
        self._core(self._columns([]))

    @property
    def _settings(self) -> dict[str, Any]:
        return super()._settings | self._bins

    def _core(self, columns: dict[str, Any]) -> TokenEncoding:
        return TokenEncoding.bins(**columns, **self._bins, length=self.length, **self._special)


def genes_of(
    encode: Encoding,
    genes: Genes,
    selection: Selection,
    controls: Selection | None,
    gene_key: str | None,
) -> list[str]:
    """The genes that are read of cells (and of their controls) to encode them.

    Raises:
        DaoTypeError: ``encode`` is something else.
        DaoValueError: ``genes`` beside it.
        DaoKeyError: no dataset has a gene of the vocabulary.
    """
    if not isinstance(encode, Encoding):
        raise DaoTypeError(f"encode={encode!r}; expected a RankEncoding or a BinEncoding")
    if genes is not None:
        raise DaoValueError(
            "encode= reads the genes of its vocabulary, and genes= says others; leave genes= out, "
            "or give the encoding a vocabulary of these genes"
        )
    if controls is None or controls.store.id == selection.store.id:
        return encode._genes_in([s for s in (selection, controls) if s is not None], gene_key)
    ours, theirs = (encode._genes_in([s], gene_key) for s in (selection, controls))
    if alone := [*(set(ours) ^ set(theirs))]:
        raise DaoValueError(
            "genes of the vocabulary are in one of the two stores only: "
            f"{first_few(sorted(alone))}; leave them out of it: their tokens would say which "
            "store a cell is of"
        )
    return ours


def _vocabulary(vocabulary: Any) -> pl.DataFrame:
    """A vocabulary as a frame of ``gene`` (String), ``token`` (Int64) and what else it has."""
    if isinstance(vocabulary, pl.LazyFrame):
        vocabulary = vocabulary.collect()
    if isinstance(vocabulary, Mapping):
        frame = _pairs(vocabulary, "vocabulary", "token")
    elif isinstance(vocabulary, pl.DataFrame):
        frame = vocabulary
    elif type(vocabulary).__module__.startswith("pandas"):
        frame = pl.from_pandas(vocabulary)
    else:
        raise DaoTypeError(
            f"vocabulary={vocabulary!r}; expected a frame with the columns gene and token, or a "
            "mapping of gene to token"
        )
    if lacking := [name for name in ("gene", "token") if name not in frame.columns]:
        raise DaoValueError(
            f"the vocabulary has no column {lacking[0]!r}; its columns: "
            f"{', '.join(map(repr, frame.columns))}"
        )
    frame = frame.select("gene", "token", *(c for c in ["median"] if c in frame.columns))
    gene, token = frame["gene"], frame["token"]
    if isinstance(gene.dtype, (pl.Categorical, pl.Enum)):
        gene = gene.cast(pl.String)
    if gene.dtype != pl.String:
        raise DaoTypeError(f"the vocabulary's genes are {gene.dtype}; expected text")
    if not token.dtype.is_integer():
        raise DaoTypeError(f"the vocabulary's tokens are {token.dtype}; expected integers")
    if gene.null_count() or token.null_count():
        raise DaoValueError("the vocabulary has nulls among its genes or tokens")
    if len(token) and not 0 <= int(token.min()) <= int(token.max()) <= _MOST:  # type: ignore[arg-type]
        raise DaoValueError(
            f"the vocabulary has tokens from {token.min()!r} to {token.max()!r}; expected ≥ 0"
        )
    frame = frame.with_columns(gene, token.cast(pl.Int64))
    for name in ("gene", "token"):
        twice = frame[name].filter(frame[name].is_duplicated())
        if len(twice):
            raise DaoValueError(f"the vocabulary has the {name} {twice[0]!r} more than once")
    return frame


def _pairs(mapping: Any, what: str, value: str) -> pl.DataFrame:
    """A mapping of genes as a frame."""
    if not isinstance(mapping, Mapping):
        raise DaoTypeError(f"{what}={mapping!r}; expected a mapping of gene to {value}")
    try:
        values = pl.Series(value, list(mapping.values()), strict=True)
        return pl.DataFrame([pl.Series("gene", list(mapping), dtype=pl.String), values])
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise DaoTypeError(f"{what}= is no mapping of gene (str) to {value}: {error}") from None


def _token(name: str, value: Any, names: dict[str, int]) -> int | None:
    """A special token, given or named."""
    if value is None and name != "pad":
        return None
    if isinstance(value, str):
        if value not in names:
            raise DaoKeyError(f"{name}={value!r} is no entry of the vocabulary")
        return names[value]
    return integer(name, value, -(2**63), _MOST)
