//! Where the demo writes: colours where they are wanted, the width of the terminal, and text that cannot disturb it.

use std::io::{IsTerminal, Write};

/// The width where there is no terminal to ask.
const USUAL_WIDTH: usize = 100;

/// A colour or weight, as the parameter of the terminal's SGR sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style(&'static str);

impl Style {
    pub(super) const NONE: Style = Style("");
    pub(super) const BOLD: Style = Style("1");
    pub(super) const DIM: Style = Style("2");
    pub(super) const RED: Style = Style("1;31");
    pub(super) const GREEN: Style = Style("32");
    pub(super) const YELLOW: Style = Style("33");
    pub(super) const BLUE: Style = Style("34");
    pub(super) const MAGENTA: Style = Style("35");
    pub(super) const CYAN: Style = Style("36");
}

/// An output of lines.
pub(crate) struct Screen {
    out: Box<dyn Write>,
    terminal: bool,
    colours: bool,
    closed: bool,
    fault: Option<std::io::Error>,
}

impl Screen {
    /// Standard output; `plain` wants no colours even on a terminal.
    pub(crate) fn standard(plain: bool) -> Screen {
        let terminal = std::io::stdout().is_terminal();
        // https://no-color.org: any value but none at all.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let colours = terminal && !plain && !refused && !dumb;
        Screen { out: Box::new(std::io::stdout()), terminal, colours, closed: false, fault: None }
    }

    /// Characters of a line, now: windows change.
    pub(super) fn width(&self) -> usize {
        let size = if self.terminal { terminal_size::terminal_size() } else { None };
        size.map_or(USUAL_WIDTH, |(width, _)| usize::from(width.0))
    }

    pub(super) fn paint(&self, style: Style, text: &str) -> String {
        paint(self.colours, style, text)
    }

    pub(super) fn colours(&self) -> bool {
        self.colours
    }

    pub(crate) fn line(&mut self, text: &str) {
        if let Err(error) = writeln!(self.out, "{text}").and_then(|()| self.out.flush()) {
            self.closed = true;
            self.fault = (error.kind() != std::io::ErrorKind::BrokenPipe).then_some(error);
        }
    }

    /// Why no more can be written, where it is not that nobody reads.
    pub(crate) fn fault(&self) -> Option<&std::io::Error> {
        self.fault.as_ref()
    }

    /// Whether nobody reads any more, as after `| head`.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }
}

pub(super) fn paint(colours: bool, style: Style, text: &str) -> String {
    match style {
        Style(sgr) if colours && !sgr.is_empty() => format!("\x1b[{sgr}m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// `text` in exactly `width` cells: filled with blanks, or cut with an ellipsis. Characters that would move the cursor
/// are replaced: what a caller wrote must not reach the terminal as a command.
pub(super) fn fit(text: &str, width: usize) -> String {
    let safe: Vec<char> = text.chars().map(|c| if c.is_control() { '\u{b7}' } else { c }).collect();
    let whole: usize = safe.iter().map(|c| cells(*c)).sum();
    let room = if whole <= width { width } else { width.saturating_sub(1) };
    let (mut out, mut used) = (String::with_capacity(width), 0);
    for c in safe {
        if used + cells(c) > room {
            break;
        }
        out.push(c);
        used += cells(c);
    }
    if whole > width && width > 0 {
        out.push('\u{2026}');
        used += 1;
    }
    out.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
    out
}

/// How many cells a character takes: two for those of East Asia and for pictures, none for marks on others.
fn cells(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x2069 | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fits_its_cells_whatever_it_is() {
        assert_eq!(fit("busy", 6), "busy  ");
        assert_eq!(fit("workingAfterCall", 10), "workingAf\u{2026}");
        assert_eq!(fit("\u{4f60}\u{597d}\u{4f60}", 6), "\u{4f60}\u{597d}\u{4f60}");
        assert_eq!(fit("\u{4f60}\u{597d}\u{4f60}", 5), "\u{4f60}\u{597d}\u{2026}");
        assert_eq!(fit("\u{4f60}\u{597d}\u{4f60}", 4), "\u{4f60}\u{2026} ");
        assert_eq!(fit("\x1b[2Jgone\n", 12), "\u{b7}[2Jgone\u{b7}   ");
        assert_eq!(fit("anything", 0), "");
    }

    #[test]
    fn colours_come_only_where_they_are_wanted() {
        assert_eq!(paint(true, Style::GREEN, "ready"), "\x1b[32mready\x1b[0m");
        assert_eq!(paint(false, Style::GREEN, "ready"), "ready");
        assert_eq!(paint(true, Style::NONE, "ready"), "ready");
    }
}
