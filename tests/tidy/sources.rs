//! The files of a crate, read as the compiler reads them: which file uses which,
//! and which types it makes public. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// The place of a module in its crate; the root's is empty.
type Module = Vec<String>;

/// A crate, by its files' paths below the folder of its sources.
#[derive(Debug, Default)]
pub struct Crate {
    /// From a file to those whose names it speaks.
    pub uses: BTreeMap<String, BTreeSet<String>>,
    /// Public types, each with the files that define one of that name.
    pub types: BTreeMap<String, Vec<String>>,
}

/// A module that stands in a file of its own.
struct File {
    module: Module,
    path: String,
    /// Where the files of its child modules are.
    children: PathBuf,
    syntax: syn::File,
}

impl Crate {
    /// Reads the crate whose root is `lib.rs` in a folder.
    pub fn read(folder: &Path) -> Crate {
        let mut files = Vec::new();
        // Modules within files, too, each with the file that it is written in.
        let mut modules = BTreeMap::new();
        let mut open = vec![(Module::new(), folder.join("lib.rs"))];
        while let Some((module, path)) = open.pop() {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let parent = path.parent().expect("a file is in a folder");
            let stem = path.file_stem().expect("a file has a name");
            let children = if stem == "mod" || stem == "lib" { parent.to_owned() } else { parent.join(stem) };
            let below = path.strip_prefix(folder).expect("it is below").to_string_lossy().into_owned();
            let file = File { module, path: below, children, syntax };
            declared(&file.syntax.items, &file.module, &file, &mut modules, &mut open);
            files.push(file);
        }
        let mut found = Crate::default();
        for file in &files {
            let reader =
                Reader { modules: &modules, module: file.module.clone(), uses: BTreeSet::new(), types: Vec::new() };
            let (uses, types) = reader.read(&file.syntax);
            found.uses.insert(file.path.clone(), uses.into_iter().filter(|used| *used != file.path).collect());
            for name in types {
                found.types.entry(name).or_default().push(file.path.clone());
            }
        }
        found
    }

    /// The files that lead back to themselves, a circle each time, when some of
    /// the uses are left out.
    pub fn circles(&self, without: &[(&str, &str)]) -> Vec<BTreeSet<&str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.uses.keys().map(|file| (file.as_str(), self.reached(file, without))).collect();
        let circle = |file: &str| -> BTreeSet<&str> {
            reach[file].iter().copied().filter(|other| reach[other].contains(file)).collect()
        };
        let all: BTreeSet<BTreeSet<&str>> = reach.keys().map(|file| circle(file)).filter(|c| !c.is_empty()).collect();
        all.into_iter().collect()
    }

    /// Every file that one leads to.
    fn reached(&self, from: &str, without: &[(&str, &str)]) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open = vec![from];
        while let Some(file) = open.pop() {
            for used in &self.uses[file] {
                if !without.contains(&(file, used)) && found.insert(used.as_str()) {
                    open.push(used);
                }
            }
        }
        found
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test" || condition.starts_with("all (test") || condition.starts_with("all(test")
        }
        _ => false,
    })
}

/// Notes the modules that stand in a list of items, and queues those with files.
fn declared(
    items: &[syn::Item],
    module: &Module,
    file: &File,
    modules: &mut BTreeMap<Module, String>,
    open: &mut Vec<(Module, PathBuf)>,
) {
    modules.insert(module.clone(), file.path.clone());
    for item in items {
        let syn::Item::Mod(child) = item else { continue };
        if is_test(&child.attrs) {
            continue;
        }
        let name = child.ident.to_string();
        let mut place = module.clone();
        place.push(name.clone());
        match &child.content {
            Some((_, items)) => declared(items, &place, file, modules, open),
            None => {
                let flat = file.children.join(format!("{name}.rs"));
                open.push((place, if flat.exists() { flat } else { file.children.join(name).join("mod.rs") }));
            }
        }
    }
}

/// Goes through one file.
struct Reader<'a> {
    modules: &'a BTreeMap<Module, String>,
    /// The module at hand.
    module: Module,
    uses: BTreeSet<String>,
    types: Vec<String>,
}

impl Reader<'_> {
    fn read(mut self, syntax: &syn::File) -> (BTreeSet<String>, Vec<String>) {
        self.visit_file(syntax);
        (self.uses, self.types)
    }

    /// Takes note of a path: the innermost module that it goes through is used.
    fn take(&mut self, path: &[String]) {
        let Some(first) = path.first() else { return };
        let mut rest = path;
        let mut place = match first.as_str() {
            "crate" => Module::new(),
            "self" | "super" => self.module.clone(),
            name => {
                let mut child = self.module.clone();
                child.push(name.to_owned());
                if !self.modules.contains_key(&child) {
                    return;
                }
                self.module.clone()
            }
        };
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" | "self" => {}
                "super" => {
                    place.pop();
                }
                _ => break,
            }
            rest = after;
        }
        for name in rest {
            place.push(name.clone());
            if !self.modules.contains_key(&place) {
                place.pop();
                break;
            }
        }
        self.uses.insert(self.modules[&place].clone());
    }

    fn take_tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        let depth = before.len();
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.take_tree(&path.tree, before);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.take_tree(item, before)),
            syn::UseTree::Glob(_) => self.take(before),
            syn::UseTree::Name(syn::UseName { ident }) | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                if ident != "self" {
                    before.push(ident.to_string());
                }
                self.take(before);
            }
        }
        before.truncate(depth);
    }

    fn public(&mut self, visibility: &syn::Visibility, name: &syn::Ident) {
        if matches!(visibility, syn::Visibility::Public(_)) {
            self.types.push(name.to_string());
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            syn::visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        // To declare a child is not to use it.
        if module.content.is_some() {
            self.module.push(module.ident.to_string());
            syn::visit::visit_item_mod(self, module);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.take_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        // A single name was imported, and that was counted, or is the file's own.
        if path.segments.len() > 1 {
            let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.take(&names);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        let text = invocation.tokens.to_string().replace(" :: ", "::").replace(":: ", "::").replace(" ::", "::");
        for path in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            let names: Vec<String> = path.split("::").map(str::to_owned).collect();
            if names.len() > 1 && names.iter().all(|name| !name.is_empty()) {
                self.take(&names);
            }
        }
    }

    /// Who may see a thing is no use of it.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.public(&item.vis, &item.ident);
        syn::visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.public(&item.vis, &item.ident);
        syn::visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.public(&item.vis, &item.ident);
        syn::visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.public(&item.vis, &item.ident);
        syn::visit::visit_item_type(self, item);
    }
}
