//! Templates are written for pongo2, which speaks Django's dialect where ours speaks Jinja's: arguments of filters follow a
//! colon, and operators may be those of Go.

/// The template in Jinja's dialect. Text outside of tags stays as it is.
pub(super) fn jinja(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = next_tag(rest) {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let (opening, inside) = tag.split_at(2);
        out.push_str(opening);
        let closing = match opening {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let end = if opening == "{#" { inside.find(closing) } else { end_of_tag(inside, closing) };
        let (inside, after) = inside.split_at(end.unwrap_or(inside.len()));
        if opening == "{#" {
            out.push_str(inside);
        } else {
            expression(inside, &mut out);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn next_tag(text: &str) -> Option<usize> {
    ["{{", "{%", "{#"].iter().filter_map(|opening| text.find(opening)).min()
}

/// Where `closing` is that stands in no string.
fn end_of_tag(text: &str, closing: &str) -> Option<usize> {
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(closing) {
            return Some(at);
        }
        at += token(rest);
    }
    None
}

/// Length of what begins `text`: a string, a word, or one character.
fn token(text: &str) -> usize {
    let mut characters = text.char_indices();
    let Some((_, first)) = characters.next() else { return 0 };
    match first {
        '"' | '\'' => {
            let mut escaped = false;
            for (at, c) in characters {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    c if c == first => return at + 1,
                    _ => {}
                }
            }
            text.len()
        }
        c if is_word(c) => text.find(|c: char| !is_word(c)).unwrap_or(text.len()),
        c => c.len_utf8(),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

fn expression(mut text: &str, out: &mut String) {
    while !text.is_empty() {
        if let Some((length, argument)) = filter_argument(text) {
            // `|name:argument`
            out.push_str(text[..length - argument.len()].trim_end().trim_end_matches(':').trim_end());
            out.push('(');
            out.push_str(argument);
            out.push(')');
            text = &text[length..];
            continue;
        }
        let (replaced, length) = match text.as_bytes() {
            [b'&', b'&', ..] => (" and ", 2),
            [b'|', b'|', ..] => (" or ", 2),
            [b'!', b'=', ..] => ("!=", 2),
            [b'!', ..] => (" not ", 1),
            _ => {
                let length = token(text);
                (&text[..length], length)
            }
        };
        out.push_str(replaced);
        text = &text[length..];
    }
}

/// If `text` begins with a filter that has an argument: the length of all that, and the argument.
fn filter_argument(text: &str) -> Option<(usize, &str)> {
    let after_bar = text.strip_prefix('|')?;
    let name = after_bar.trim_start();
    let length = token(name);
    if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return None;
    }
    let argument = name[length..].trim_start().strip_prefix(':')?.trim_start();
    let length = token(argument);
    if !argument.starts_with(|c: char| is_word(c) || matches!(c, '"' | '\'')) {
        return None;
    }
    Some((text.len() - argument.len() + length, &argument[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn arguments_of_filters_and_operators_are_put_in_other_words() {
        for (django, expected) in [
            ("{{ a|default:\"x y\" }}", "{{ a|default(\"x y\") }}"),
            ("{{ a | default : b.c|upper }}", "{{ a | default(b.c)|upper }}"),
            ("{{ a|default:\"}}\"|lower }} |b:c", "{{ a|default(\"}}\")|lower }} |b:c"),
            ("{% if a && !b || c != 'x||y' %}", "{% if a  and   not b  or  c != 'x||y' %}"),
            ("{# a|b:c #} a && b", "{# a|b:c #} a && b"),
            ("{{ config_get(\"user.x\", properties.default) }}", "{{ config_get(\"user.x\", properties.default) }}"),
            ("{{ unfinished|x:", "{{ unfinished|x:"),
            ("a { b } é {{ \"é\"|x:'\\'' }}", "a { b } é {{ \"é\"|x('\\'') }}"),
        ] {
            assert_eq!(jinja(django), expected);
        }
    }

    proptest! {
        #[test]
        fn text_without_tags_stays(text in "[^{]{0,80}") {
            prop_assert_eq!(jinja(&text), text);
        }

        #[test]
        fn any_text_is_survived(text in "[{}%#|:&!\"'\\\\ aé.(\n]{0,60}") {
            jinja(&text);
        }
    }
}
