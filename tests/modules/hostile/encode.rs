//! The binary format, as far as bombs need it.

pub(crate) use weir_testkit::{leb, section};

/// What a core module begins with.
pub(crate) const CORE: &[u8] = b"\0asm\x01\0\0\0";
/// What a component begins with.
pub(crate) const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A vector of `count` equal items.
pub(crate) fn items(count: usize, item: &[u8]) -> Vec<u8> {
    [leb(count), item.repeat(count)].concat()
}

/// A name.
pub(crate) fn name(name: &[u8]) -> Vec<u8> {
    [leb(name.len()), name.to_vec()].concat()
}

/// A core module of these sections.
pub(crate) fn core(sections: &[Vec<u8>]) -> Vec<u8> {
    [CORE.to_vec(), sections.concat()].concat()
}

/// A component of these sections.
pub(crate) fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [COMPONENT.to_vec(), sections.concat()].concat()
}

/// A core module of `count` functions without parameters and results, each with this body after its locals.
pub(crate) fn functions(count: usize, locals: &[u8], code: &[u8]) -> Vec<u8> {
    let body = [locals, code, &[0x0b]].concat();
    let body = [leb(body.len()), body].concat();
    core(&[section(1, b"\x01\x60\0\0"), section(3, &items(count, b"\0")), section(10, &items(count, &body))])
}
