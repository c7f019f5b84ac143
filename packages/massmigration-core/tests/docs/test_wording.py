from testsupport import wording


def found(tmp_path, monkeypatch, name, text):
    monkeypatch.setattr(wording, "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    return list(wording.problems(name))


def test_a_phrase_is_found_in_a_page_even_across_lines(tmp_path, monkeypatch):
    word = "an" + "ew"
    text = f"It starts {word}.\n\nIt is kept for\never" + " and is me" + "nded.\n"

    assert found(tmp_path, monkeypatch, "page.md", text) == [
        f"page.md:1: {word!r}; write: again",
        "page.md:3: 'for\\never'; write: forever, without end",
        "page.md:4: 'me" + "nded'; write: fix",
    ]


def test_code_is_read_for_comments_and_strings_alone(tmp_path, monkeypatch):
    word = "an" + "ew"
    text = f'{word} = 1\n# {word}\nother = """\n{word}\n"""\n{word}()  # {word}, wording: allow\n'

    problems = found(tmp_path, monkeypatch, "code.py", text)

    assert [problem.partition(": ")[0] for problem in problems] == ["code.py:2", "code.py:4"]


def test_the_docstring_of_a_function_begins_with_a_verb_unless_it_names_a_value(tmp_path, monkeypatch):
    noun = '"""The client."""'
    text = (
        f"def get():\n    {noun}\n\n\n@pytest.fixture\ndef client():\n    {noun}\n\n\n"
        f"class Site:\n    {noun}\n\n    @cached_property\n    def client(self):\n        {noun}\n\n"
        f'    async def fetch(self):\n        {noun}\n\n    def make(self):\n        """Make the client."""\n'
    )

    problems = found(tmp_path, monkeypatch, "code.py", text)

    assert [problem.partition(": ")[0] for problem in problems] == ["code.py:2", "code.py:18"]


def test_a_conflict_of_a_merge_is_found(tmp_path, monkeypatch):
    text = f"It starts.\n{'<' * 7} HEAD\nIt ends.\n{'=' * 7}\nIt stops.\n{'>' * 7} branch\n"

    assert found(tmp_path, monkeypatch, "page.md", text) == [
        "page.md:2: a conflict of a merge; resolve it",
        "page.md:6: a conflict of a merge; resolve it",
    ]


def test_every_tracked_text_keeps_to_it():
    assert wording.main([]) == 0
