"""backup, restore: an identity and its history, into a file and out of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.node import PassphraseFileOption
from p2pe.cli.options import HomeOption, JsonOption, home_of
from p2pe.errors import NotFound, StorageError, UsageError

_MAX_WORDS_BYTES: Final = 4096
BackupPassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--backup-passphrase-file",
        help="The backup's own passphrase, in this file. The 24 words open every backup.",
        show_default=False,
    ),
]


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE", show_default=False)],
    backup_passphrase_file: BackupPassphraseOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace FILE if it exists.")] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write identity, contacts and messages into an encrypted file.

    All of them, those that wait too. The node may run meanwhile.

    The file opens with the 24 words; with --backup-passphrase-file also with that passphrase (Argon2id), which then
    guards everything in it: use several random words. It is read back before it gets its name.

    Example:  p2pe backup /mnt/stick/p2pe.backup
    """
    from p2pe.app_backup import back_up
    from p2pe.app_home import passphrase_for
    from p2pe.identity.passphrase import given_passphrase

    chosen = home_of(home)
    own = passphrase_for(chosen, passphrase_file)
    extra = None if backup_passphrase_file is None else given_passphrase(backup_passphrase_file, {})
    made = back_up(chosen, file.expanduser(), home_passphrase=own, passphrase=extra, replace=replace)
    counts = made.counts
    if as_json:
        output.emit_json(
            {
                "file": str(made.file),
                "size": made.size,
                "contacts": counts.contacts,
                "sent": counts.sent,
                "received": counts.received,
                "waiting": counts.waiting,
                "passphrase": made.has_passphrase,
            }
        )
        return
    opens = "your 24 words, or its passphrase" if made.has_passphrase else "your 24 words"
    output.fields(
        [
            ("file", f"{made.file}, {made.size} bytes, read back and found whole"),
            ("holds", f"your identity, {output.counted(counts.contacts, 'contact')}, "
                      f"{output.counted(counts.sent, 'message')} sent ({counts.waiting} of them waiting), "
                      f"{counts.received} received"),
            ("opens with", opens),
            ("restore", f"p2pe restore {made.file} --home NEW_HOME"),
        ]
    )  # fmt: skip


def restore(
    file: Annotated[
        Path | None, typer.Argument(help="A file made by `p2pe backup`.", metavar="[FILE]", show_default=False)
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="From the 24 words, asked for. Without FILE: the words alone.")
    ] = False,
    words_file: Annotated[
        Path | None,
        typer.Option("--words-file", help="The 24 words, in this file; - for standard input.", show_default=False),
    ] = None,
    backup_passphrase_file: BackupPassphraseOption = None,
    send_waiting: Annotated[
        bool,
        typer.Option(
            "--send-waiting",
            help="Send what waited in the backup. Only if you took nothing back since it was made: else a message "
            "that you have deleted would be sent after all.",
        ),
    ] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseFileOption = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Don't ask for a new passphrase: leave the new key file unsealed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring an identity back, into a home that has none.

    From a backup:  p2pe restore FILE  asks for its passphrase or your 24 words.

    From the words alone:  p2pe restore --words  ; contacts come back as they come by, see `p2pe requests`.

    Either way this becomes a new device of yours, and the one before stops working at your contacts. Messages that
    waited in a backup are held: `p2pe outbox --state held_identity` shows them, `p2pe resend NAME` sends them,
    `p2pe retract ID` erases one.
    """
    if file is None and not words and words_file is None:
        raise UsageError("name the backup to restore, or --words to restore from the 24 words alone")
    from p2pe.app_backup import Restored, restore_file, restore_words
    from p2pe.identity.keyring import refuse_occupied
    from p2pe.identity.passphrase import new_passphrase, terminal

    chosen = home_of(home)
    if chosen.keys.exists():  # told before anything is asked
        refuse_occupied(chosen)
    phrase, opened_by = _secret_for(file, words, words_file, backup_passphrase_file)
    own = new_passphrase(passphrase_file, os.environ, ask=None if no_passphrase else terminal())
    done: Restored
    if file is None:
        assert phrase is not None
        done = restore_words(chosen, phrase, home_passphrase=own)
    else:
        done = restore_file(
            chosen,
            file.expanduser(),
            words=phrase,
            passphrase=opened_by,
            home_passphrase=own,
            send_waiting=send_waiting,
        )
    counts = done.counts
    if as_json:
        output.emit_json(
            {
                "home": str(chosen.path),
                "identity_key": done.identity.identity_key.hex(),
                "made_at": done.made_at,
                "contacts": counts.contacts,
                "sent": counts.sent,
                "received": counts.received,
                "held": done.held,
            }
        )
        return
    pairs = [("home", str(chosen.path)), ("key file", "NOT sealed (mode 0600)" if own is None else "sealed")]
    if done.made_at is None:
        pairs.append(("contacts", "none yet: as your contacts come by, `p2pe requests` shows them for approval"))
    else:
        pairs.append(("from", f"the backup of {output.when(done.made_at)}"))
        pairs.append(
            (
                "holds",
                f"{output.counted(counts.contacts, 'contact')}, {output.counted(counts.sent, 'message')} sent, "
                f"{counts.received} received",
            )
        )
    if done.held:
        pairs.append(
            ("held", f"{output.counted(done.held, 'message')} waited in the backup. They may have been sent or\n"
                     "taken back since, so none is sent by itself: `p2pe outbox --state held_identity` shows them,\n"
                     "`p2pe resend NAME` sends those for NAME, `p2pe retract ID` erases one")
        )  # fmt: skip
    pairs.append(("next", "p2pe run" + (f" --home {home}" if home is not None else "")))
    output.fields(pairs)


def _secret_for(
    file: Path | None, words: bool, words_file: Path | None, passphrase_file: Path | None
) -> tuple[str | None, str | None]:
    """(24 words, passphrase of the backup): exactly one of them."""
    from p2pe.app_backup import asks_for_passphrase
    from p2pe.identity.passphrase import given_passphrase, terminal

    if words_file is not None:
        return _words_from(words_file), None
    if words:
        return _asked_words(), None
    if passphrase_file is not None:
        return None, given_passphrase(passphrase_file, {})
    assert file is not None
    ask = terminal()
    if ask is not None and asks_for_passphrase(file.expanduser()):
        typed = ask("Passphrase of the backup (empty to use the 24 words): ")
        if typed:
            import unicodedata

            return None, unicodedata.normalize("NFKC", typed)
    return _asked_words(), None


def _asked_words() -> str:
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for the 24 words: use --words-file FILE, or --words-file - and a pipe"
        )
    output.note("Type the 24 words, in order, on as many lines as you like; an empty line ends them.")
    lines: list[str] = []
    while line := sys.stdin.readline().strip():
        lines.append(line)
        if len(" ".join(lines).split()) >= 24:
            break
    return " ".join(lines)


def _words_from(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read(_MAX_WORDS_BYTES)
    try:
        with path.expanduser().open(encoding="utf-8") as file:
            return file.read(_MAX_WORDS_BYTES)
    except FileNotFoundError:
        raise NotFound(f"{path} doesn't exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"the words can't be read from {path}: {error}") from error


COMMANDS: Final = {"backup": backup, "restore": restore}
