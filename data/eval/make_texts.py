#!/usr/bin/env python3
"""Makes the filler texts of `tokensieve eval` from Debian source packages in the current folder.

Not needed to build or use tokensieve: the texts are kept, so that a case stays what it is. See
README.md beside this file for the packages and how to fetch them.
"""

import argparse
import html.parser
import io
import pathlib
import re
import sys
import tarfile
import textwrap

import rdata  # pip install rdata

NOVELS = ("sensesensibility", "persuasion")
MANUAL = """arch atomiccommit wal walformat fileformat2 lockingv3 isolation tempfiles malloc testing
howtocorrupt queryplanner optoverview queryplanner-ng np1queryprob datatype3 foreignkeys fts5 json1
sessionintro rbu cintro backup unlock_notify appfileformat appfunc whentouse quirks flextypegood
limits vfs loadext withoutrowid floatingpoint eqp custombuild fasterthanfs bindptr sharedcache nulls
printf th3 faq whynotgit affcase1 mmap""".split()
SOURCES = "btree.c pager.c where.c".split()
TABLES = "africa asia australasia europe northamerica southamerica".split()

# The least length of a line that may not occur twice in prose and tables: a repeated sentence would
# make two places of a prompt the same.
LONG_LINE = 40
SHORT_PAGE_LINE = 25  # menu entries and headings of a manual page


def members(archive, wanted):
    """The texts of an archive's members whose path ends with a wanted name, in wanted order."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            for name in wanted:
                if member.isfile() and f"/{member.name}".endswith(f"/{name}"):
                    found[name] = tar.extractfile(member).read()
    missing = [name for name in wanted if name not in found]
    if missing:
        sys.exit(f"make_texts: {archive} lacks {', '.join(missing)}")
    return [found[name] for name in wanted]


def paragraphs(lines):
    """One line for each block of lines between blank ones."""
    text = "\n".join(line.strip() for line in lines)
    blocks = re.split(r"\n{2,}", text)
    return [" ".join(block.split()) for block in blocks if block.strip()]


def without_repeats(lines):
    seen = set()
    for line in lines:
        if len(line) >= LONG_LINE and line in seen:
            continue
        seen.add(line)
        yield line


def fiction(folder):
    archive = next(folder.glob("r-cran-janeaustenr_*.orig.tar.gz"))
    for data in members(archive, [f"data/{name}.rda" for name in NOVELS]):
        (lines,) = rdata.read_rda(io.BytesIO(data)).values()
        yield from paragraphs(str(line).replace("_", "") for line in lines)


class PageText(html.parser.HTMLParser):
    """The paragraphs of a page, without menus, scripts and syntax diagrams."""

    SKIPPED = {"script", "style", "svg", "select", "form", "title"}
    BLOCKS = {"p", "div", "li", "ul", "ol", "td", "tr", "table", "h1", "h2", "h3", "h4", "dt", "dd"}
    BLOCKS |= {"blockquote", "pre", "br", "center"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.text, self.skipping = [], 0

    def handle_starttag(self, tag, attrs):
        del attrs
        self.skipping += tag in self.SKIPPED
        if tag in self.BLOCKS:
            self.text.append("\n\n")

    def handle_endtag(self, tag):
        self.skipping -= tag in self.SKIPPED and self.skipping > 0
        if tag in self.BLOCKS:
            self.text.append("\n\n")

    def handle_data(self, data):
        if not self.skipping:
            self.text.append(data)


def technical(folder):
    archive = next(folder.glob("sqlite3_*.orig-www.tar.xz"))
    for page in members(archive, [f"www/{name}.html" for name in MANUAL]):
        parser = PageText()
        parser.feed(page.decode("utf-8"))
        blocks = paragraphs("".join(parser.text).replace("\xa0", " ").split("\n"))
        yield from (block for block in blocks if len(block) >= SHORT_PAGE_LINE)


def code(folder):
    archive = next(folder.glob("sqlite3_*.orig.tar.xz"))
    for source in members(archive, [f"src/{name}" for name in SOURCES]):
        yield from source.decode("ascii").split("\n")


def tables(folder):
    archive = next(folder.glob("tzdata_*.orig.tar.gz"))
    for table in members(archive, TABLES):
        for line in table.decode("utf-8").split("\n"):
            if "@" not in line and "://" not in line:  # people's addresses
                yield line.replace("\t", " ").rstrip()


def write(path, lines):
    text = "\n".join(lines)
    text = re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(text):,} characters")


def main():
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__))
    parser.add_argument("sources", type=pathlib.Path, help="folder with the source packages")
    parser.add_argument("output", type=pathlib.Path, help="folder for the texts")
    options = parser.parse_args()
    write(options.output / "fiction.txt", without_repeats(fiction(options.sources)))
    write(options.output / "technical.txt", without_repeats(technical(options.sources)))
    write(options.output / "code.txt", code(options.sources))
    write(options.output / "tables.txt", without_repeats(tables(options.sources)))


if __name__ == "__main__":
    main()
