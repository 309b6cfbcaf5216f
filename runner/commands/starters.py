"""HOWTO.txt, a first job and its data: an empty jobs folder is given them, and explains itself.

Written once, before the box is first used, and never over anything: whoever deletes them is not
given them again.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

from runner.contract.layout import Inbox
from runner.contract.models import DEMO_MODEL
from runner.errors import UnsafePathError
from runner.files.beneath import Folder

HOWTO = """\
HOWTO: train the model on your own questions and answers          (Deutsch: siehe unten)
====================================================================================

1. Make a table with two columns, prompt (the question) and completion (the answer), one row for
   each question. examples/questions-and-answers.xlsx is such a table, ready to be filled in.
   A few hundred rows are a good beginning.
2. Save it as an Excel file (.xlsx) or as CSV (in Excel, File > Save As > "CSV UTF-8"), and put the
   file into the folder data. Of an Excel file, the first sheet is read.
3. Copy examples/first-job.yaml into this folder (beside this HOWTO). Open it with an editor and
   change two lines:  model: which model it starts from,  data: where your table lies.
   The name must end in .yaml. Notepad adds .txt: choose "All files" when you save.
4. A few seconds later the file moves to the folder queued, then running. The .txt beside it says
   where the job stands and how long it will take. STATUS.txt, in this folder, shows all jobs, and
   what needs you.
5. When it is done, the file lies in done, and its .txt says whether the training helped and where
   the adapter (the result) lies. Is it in rejected or failed? Its .txt says why, and what to do.

To stop a job: delete its .yaml file from queued or running.
Once trained, a model may repeat passages from its training data. Treat the adapter as you treat the
data.


ANLEITUNG: das Modell mit eigenen Fragen und Antworten trainieren
====================================================================================

1. Legen Sie eine Tabelle mit zwei Spalten an: prompt (die Frage) und completion (die Antwort), eine
   Zeile je Frage. examples/questions-and-answers.xlsx ist eine solche Tabelle zum Ausfüllen.
   Einige hundert Zeilen sind ein guter Anfang.
2. Speichern Sie sie als Excel-Datei (.xlsx) oder als CSV (in Excel: Datei > Speichern unter >
   "CSV UTF-8") und legen Sie die Datei in den Ordner data. Von einer Excel-Datei wird das erste
   Blatt gelesen.
3. Kopieren Sie examples/first-job.yaml in diesen Ordner (neben diese Anleitung). Öffnen Sie die
   Kopie mit einem Editor und ändern Sie zwei Zeilen:  model: von welchem Modell ausgegangen wird,
   data: wo Ihre Tabelle liegt. Der Name muss auf .yaml enden. Notepad hängt .txt an: wählen Sie
   beim Speichern "Alle Dateien".
4. Nach wenigen Sekunden wandert die Datei in den Ordner queued, dann running. Die .txt daneben
   sagt, wo der Auftrag steht und wie lange er noch dauert. STATUS.txt in diesem Ordner zeigt alle
   Aufträge und was Sie tun müssen.
5. Am Ende liegt die Datei in done; ihre .txt sagt, ob das Training geholfen hat und wo der Adapter
   (das Ergebnis) liegt. Liegt sie in rejected oder failed? Ihre .txt sagt, warum und was zu tun
   ist.

Einen Auftrag abbrechen: seine .yaml aus queued oder running löschen.
Ein trainiertes Modell kann Passagen aus seinen Trainingsdaten wiedergeben. Behandeln Sie den
Adapter wie die Daten selbst.
"""

FIRST_JOB = f"""\
# A first job. Copy this file into the jobs folder (one folder up) and change the two lines below.
# Ein erster Auftrag: in den Ordner jobs kopieren (eine Ebene höher) und die zwei Zeilen ändern.

model: {DEMO_MODEL}   # a model on the box / ein Modell auf der Box
data: data/first-job.csv           # your table, in the folder data / Ihre Tabelle im Ordner data
"""

_FOLDER_MODE = 0o2770  # as jobs/ itself: colleagues of the share's group may drop and delete
_HEADINGS = ("prompt", "completion")
_ROWS = tuple(
    (f"What is the notice period in contract {number}?", f"{weeks} weeks to the end of a month.")
    for number, weeks in enumerate(
        (4, 6, 12, 4, 8, 2, 6, 4, 12, 8, 4, 6, 2, 8, 4, 12, 6, 4, 8, 6), 1
    )
)
"""Enough for a first run to go through; a model learns nothing of use from twenty rows."""


def write_starters(jobs: Path, *, uid: int, gid: int) -> list[str]:
    """Write what is missing into a jobs folder that no daemon has used yet; give what was written.

    The folder must be one that this process may write to.
    """
    if Inbox(jobs).marker.exists():
        return []
    files = {
        "HOWTO.txt": _for_windows(HOWTO),
        "examples/first-job.yaml": _for_windows(FIRST_JOB),
        "examples/questions-and-answers.xlsx": excel_file([_HEADINGS, *_ROWS[:3]]),
        "data/first-job.csv": _for_windows(_csv([_HEADINGS, *_ROWS])),
    }
    written = []
    with Folder.open(jobs) as root:
        for path, content in files.items():
            folder, _, name = path.rpartition("/")
            # A link that lies there is not followed: whoever writes here may be root.
            with contextlib.suppress(UnsafePathError, PermissionError, NotADirectoryError):
                if folder:
                    _make_folder(root, folder, uid, gid)
                with root.open_folder(folder or ".") as target:
                    if _write(target, name, content, uid, gid):
                        written.append(path)
    return written


def _for_windows(text: str) -> bytes:
    """Encode text so that Notepad and Excel show it right: CRLF, and a mark that it is UTF-8."""
    return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()


def _csv(rows: list[tuple[str, str]]) -> str:
    return "".join(f'"{question}","{answer}"\n' for question, answer in rows)


def _make_folder(root: Folder, name: str, uid: int, gid: int) -> None:
    if not root.make_folder(name, mode=0o700):
        return
    with root.open_folder(name) as made:
        # While both are ours: the set-group bit of a foreign group needs a capability.
        os.fchown(made.descriptor, os.geteuid(), os.getegid())
        os.fchmod(made.descriptor, _FOLDER_MODE)
        os.fchown(made.descriptor, uid, gid)


def _write(folder: Folder, name: str, content: bytes, uid: int, gid: int) -> bool:
    """Write a file that is not there yet; a folder that is not ours to write to is left alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, 0o660, dir_fd=folder.descriptor)
    except (FileExistsError, PermissionError):
        return False
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o660)
        os.fchown(file.fileno(), uid, gid)
    return True


def excel_file(rows: list[tuple[str, ...]]) -> bytes:
    """Make the smallest workbook that Excel and LibreOffice open: one sheet of texts.

    Office Open XML (ECMA-376): a zip of a content list, two relationships, a workbook and a sheet.
    """
    cells = "".join(
        f'<row r="{at}">'
        + "".join(
            f'<c r="{chr(65 + column)}{at}" t="inlineStr"><is><t>{escape(text)}</t></is></c>'
            for column, text in enumerate(row)
        )
        + "</row>"
        for at, row in enumerate(rows, 1)
    )
    head = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/'
        'content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-'
        'package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="rId1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet '
        'name="questions and answers" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{relations}"><Relationship Id="rId1" '
        f'Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><cols><col min="1" max="2" '
        f'width="60" customWidth="1"/></cols><sheetData>{cells}</sheetData></worksheet>',
    }
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            # A fixed date: the same template every time.
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), head + text)
    return target.getvalue()
