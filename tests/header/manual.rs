//! The manual pages: of the library from its header, of the command from its help, in the same words.

/// A declaration of the header with the comment before it.
#[derive(Debug)]
pub struct Item {
    comment: String,
    declaration: String,
}

/// All commented declarations of the header, in order; of a type with members, the whole of it.
pub fn items(header: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut comment = None;
    let mut declaration = String::new();
    let mut lines = header.lines();
    while let Some(line) = lines.next() {
        if comment.is_some() {
            declaration += line;
            declaration.push('\n');
            let closed = declaration.matches('{').count() == declaration.matches('}').count();
            if closed && line.ends_with(';') {
                items.push(Item {
                    comment: comment.take().unwrap(),
                    declaration: std::mem::take(&mut declaration),
                });
            }
        } else if line.starts_with("/**") {
            comment = Some(comment_from(line, &mut lines));
        }
    }
    items
}

/// The text of a comment that begins with `first` and goes on in `lines`.
fn comment_from<'a>(first: &str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let clean = |line: &str| {
        line.trim().trim_start_matches("/**").trim_end_matches("*/").trim_start_matches('*').trim().to_owned()
    };
    let mut text = vec![clean(first)];
    let mut ended = first.contains("*/");
    while !ended {
        let line = lines.next().expect("a comment ends");
        ended = line.contains("*/");
        text.push(clean(line));
    }
    text.join("\n").trim().to_owned()
}

/// A comment as roff: `code` in bold, paragraphs apart, preconditions named, the items of a list close together.
fn prose(comment: &str) -> String {
    let mut out = String::new();
    let mut in_list = false;
    for paragraph in comment.split("\n\n") {
        let item = paragraph.strip_prefix("- ");
        if in_list && item.is_none() {
            out += ".PD\n.RE\n";
        }
        out += match (item, in_list) {
            (Some(_), true) => ".IP \\(bu 2\n",
            (Some(_), false) => ".RS\n.PD 0\n.IP \\(bu 2\n",
            (None, _) if out.is_empty() => "",
            (None, _) => ".IP\n",
        };
        in_list = item.is_some();
        let paragraph = match paragraph.strip_prefix("@pre ") {
            Some(rest) => format!("Precondition: {rest}"),
            None => item.unwrap_or(paragraph).to_owned(),
        };
        for line in paragraph.lines() {
            let pieces = line.split('`').enumerate();
            let line: String = pieces
                .map(|(i, piece)| if i % 2 == 1 { format!("\\fB{}\\fP", code(piece)) } else { escape(piece) })
                .collect();
            let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
            out += &format!("{guard}{line}\n");
        }
    }
    if in_list {
        out += ".PD\n.RE\n";
    }
    out
}
fn escape(text: &str) -> String {
    text.replace('\\', "\\e")
}
fn code(text: &str) -> String {
    escape(text).replace('-', "\\-")
}

/// A declaration on one line.
fn one_line(declaration: &str) -> String {
    let words: Vec<_> = declaration.split_whitespace().collect();
    code(&words.join(" ").replace("( ", "("))
}

impl Item {
    fn is_function(&self) -> bool {
        !self.declaration.starts_with("typedef") && self.declaration.contains('(')
    }
    fn has_members(&self) -> bool {
        self.declaration.contains('{')
    }
    /// Members of a structure or enumeration.
    fn members(&self) -> Vec<Item> {
        let mut members = Vec::new();
        let mut lines = self.declaration.lines();
        while let Some(line) = lines.next() {
            if line.trim().starts_with("/**") {
                let comment = comment_from(line, &mut lines);
                let declaration = lines.next().expect("a member after its comment").trim();
                members
                    .push(Item { comment, declaration: declaration.trim_end_matches([',', ';']).to_owned() });
            }
        }
        members
    }
}

/// The page: `template` with its `@MARKS@` filled in.
pub fn page(template: &str, header: &str, version: &str) -> String {
    let items = items(header);
    let functions = || items.iter().filter(|item| item.is_function());
    let synopsis: String = functions().map(|item| format!(".B {}\n", one_line(&item.declaration))).collect();
    let described: String = functions()
        .map(|item| format!(".TP\n.B {}\n{}", one_line(&item.declaration), prose(&item.comment)))
        .collect();
    let mut types = String::new();
    for item in items.iter().filter(|item| item.declaration.starts_with("typedef")) {
        if !item.has_members() {
            types += &format!(".TP\n.B {}\n{}", one_line(&item.declaration), prose(&item.comment));
            continue;
        }
        let name = item.declaration.trim_end().rsplit(['}', ';']).nth(1).expect("a name").trim();
        types += &format!(".SS {}\n{}", code(name), prose(&item.comment).replace(".IP\n", ".PP\n"));
        for member in item.members() {
            types += &format!(".TP\n.B {}\n{}", one_line(&member.declaration), prose(&member.comment));
        }
    }
    let filled = template.replace("@VERSION@", version).replace("@SYNOPSIS@\n", &synopsis);
    filled.replace("@FUNCTIONS@\n", &described).replace("@TYPES@\n", &types)
}

/// The command's page: `help` is what it says of itself, `commands` its help of each command.
pub fn command_page(help: &str, commands: &[(String, String)], version: &str) -> String {
    let verbatim = |text: &str| {
        let lines = text.lines().map(|line| match code(line) {
            line if line.starts_with(['.', '\'']) => format!("\\&{line}\n"),
            line => line + "\n",
        });
        format!(".nf\n{}.fi\n", lines.collect::<String>())
    };
    let (title, rest) = help.split_once("\n\n").expect("a title, then the rest");
    let mut page = format!(
        ".\\\" Made from what `unimem help` says; `make header` makes it anew.\n.TH UNIMEM 1 \"\" \"unimem {version}\" \
         \"User Commands\"\n.SH NAME\n{}\n.SH DESCRIPTION\n{}",
        title.replace(": ", " \\- "),
        verbatim(rest)
    );
    for (name, text) in commands {
        page += &format!(".SH {}\n{}", name.to_uppercase(), verbatim(text));
    }
    page + ".SH SEE ALSO\n.BR unimem (3)\n"
}
