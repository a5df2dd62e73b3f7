//! The commands that a document tells people to type, taken from it word by word; each must be taken, or excused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What a command begins with: other words in a block or between backticks are data.
const PROGRAMS: [&str; 6] = ["meridian ", "cargo ", "curl ", "install ", "cp ", "systemctl "];

/// A block of a document: fenced, or indented by four spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What stands behind the fence: `sh`, `toml`; empty for indented blocks.
    pub language: String,
    /// Its lines, without their indentation.
    pub text: String,
}

impl Block {
    /// Its commands. Where some lines have a prompt (`$ `), those alone are commands and the rest is what they print.
    pub fn commands(&self) -> Vec<String> {
        let prompted: Vec<&str> = self.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        let lines = if prompted.is_empty() { self.text.lines().collect() } else { prompted };
        let bare = lines.into_iter().map(|line| line.split(" #").next().unwrap_or_default().trim());
        bare.filter(|line| is_command(line)).map(str::to_owned).collect()
    }
}

fn is_command(text: &str) -> bool {
    PROGRAMS.iter().any(|program| text.starts_with(program))
}

/// A document, and what of it was taken.
#[derive(Debug)]
pub struct Document {
    name: String,
    /// Its blocks, in order.
    pub blocks: Vec<Block>,
    spans: Vec<String>,
    taken: RefCell<BTreeSet<String>>,
}

impl Document {
    /// Opens a Markdown file of this repository.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let text = std::fs::read_to_string(path).with_context(|| name.to_owned())?;
        Ok(Self::read(name, &text))
    }

    fn read(name: &str, text: &str) -> Self {
        let (mut blocks, mut prose): (Vec<Block>, String) = Default::default();
        let mut fence: Option<Block> = None;
        let mut indented: Option<Block> = None;
        for line in text.lines() {
            if let Some(block) = &mut fence {
                match line.trim() == "```" {
                    true => blocks.extend(fence.take()),
                    false => push(block, line),
                }
                continue;
            }
            match (line.strip_prefix("    "), line.strip_prefix("```")) {
                (Some(code), _) => {
                    push(indented.get_or_insert_with(|| Block::of("")), code);
                    continue;
                }
                // A block goes on after an empty line when what follows is indented too.
                _ if line.is_empty() && indented.is_some() => {
                    indented.iter_mut().for_each(|block| push(block, ""));
                    continue;
                }
                (None, Some(language)) => fence = Some(Block::of(language)),
                (None, None) => {
                    prose.push_str(line);
                    prose.push('\n');
                }
            }
            blocks.extend(indented.take());
        }
        blocks.extend(fence.into_iter().chain(indented));
        // What stands between backticks, also where a line ends between them.
        let between = prose.split('`').skip(1).step_by(2);
        let spans = between.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "));
        let spans = spans.filter(|span| is_command(span)).collect();
        Self { name: name.to_owned(), blocks, spans, taken: RefCell::default() }
    }

    /// All commands, those between backticks last; none twice.
    pub fn commands(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for command in self.blocks.iter().flat_map(Block::commands).chain(self.spans.iter().cloned()) {
            if !all.contains(&command) {
                all.push(command);
            }
        }
        all
    }

    /// This command or, when it stands nowhere, the first one that begins so; as it stands there.
    pub fn take(&self, beginning: &str) -> Result<String> {
        let all = self.commands();
        let exact = all.iter().find(|command| *command == beginning);
        let found = exact.or_else(|| all.iter().find(|command| command.starts_with(beginning))).cloned();
        let found = found.with_context(|| format!("{} has no command {beginning:?}", self.name))?;
        self.taken.borrow_mut().insert(found.clone());
        Ok(found)
    }

    /// The block that has a line which begins so.
    pub fn block(&self, beginning: &str) -> Result<&Block> {
        let has = |block: &&Block| block.text.lines().any(|line| line.starts_with(beginning));
        self.blocks.iter().find(has).with_context(|| format!("{} has no block with {beginning:?}", self.name))
    }

    /// An error that names what was neither taken nor excused, or excused in vain. An excuse is the beginning of a command and a
    /// reason.
    pub fn all_taken(&self, excuses: &[(&str, &str)]) -> Result<()> {
        let taken = self.taken.borrow();
        let left: Vec<String> =
            self.commands().into_iter().filter(|command| !taken.contains(command)).collect();
        let excused = |command: &str| excuses.iter().any(|(beginning, _)| command.starts_with(beginning));
        let missing: Vec<&String> = left.iter().filter(|command| !excused(command)).collect();
        ensure!(missing.is_empty(), "{}: nobody ran {missing:?}", self.name);
        let idle =
            excuses.iter().filter(|(beginning, _)| !left.iter().any(|left| left.starts_with(beginning)));
        let idle: Vec<_> = idle.collect();
        ensure!(idle.is_empty(), "{}: no need for these excuses: {idle:?}", self.name);
        Ok(())
    }
}

impl Block {
    fn of(language: &str) -> Self {
        Self { language: language.trim().to_owned(), text: String::new() }
    }
}

fn push(block: &mut Block, line: &str) {
    block.text.push_str(line);
    block.text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Say `meridian key use\nID`, and `words`.\n\n    meridian status   # how it is\n\n    meridian top\nMore.\n\n\
        ```toml\n[node]\n```\n```\n$ meridian demo --for 3s\nmeridian is not typed here\n```\n";

    #[test]
    fn blocks_and_commands_are_found() {
        let document = Document::read("a.md", TEXT);
        let languages: Vec<&str> = document.blocks.iter().map(|block| block.language.as_str()).collect();
        assert_eq!(languages, ["", "toml", ""]);
        assert_eq!(document.block("[node]").unwrap().text, "[node]\n");
        let all = ["meridian status", "meridian top", "meridian demo --for 3s", "meridian key use ID"];
        assert_eq!(document.commands(), all);
    }

    #[test]
    fn what_nobody_takes_is_told_and_so_are_excuses_in_vain() {
        let document = Document::read("a.md", TEXT);
        assert_eq!(document.take("meridian s").unwrap(), "meridian status");
        assert!(document.take("meridian nothing").is_err());
        assert_eq!(document.take("meridian top").unwrap(), "meridian top");
        document.take("meridian demo").unwrap();
        let left = document.all_taken(&[]).unwrap_err().to_string();
        assert!(left.contains("meridian key use ID") && !left.contains("status"), "{left}");
        document.all_taken(&[("meridian key", "no mesh here")]).unwrap();
        let idle = [("meridian key", "no mesh here"), ("meridian status", "taken")];
        assert!(document.all_taken(&idle).unwrap_err().to_string().contains("status"));
    }
}
