"""Pieces of code and markup, written for these tests: indentation, operators, quotes, numbers."""

SNIPPETS: dict[str, list[str]] = {
    "c": [
        (
            "#include <stdio.h>\n"
            "\n"
            "int main(void)\n"
            "{\n"
            "\tprintf(\"%d %s\\n\", 42, \"wind\");\n"
            "\treturn 0;\n"
            "}\n"
        ),
        (
            "static inline uint32_t rotl32(uint32_t x, unsigned n) { return (x << n) | (x "
            ">> (32u - n)); }"
        ),
        (
            "for (size_t i = 0; i < n_rows; ++i)\n"
            "    out[i] += (double)a[i*stride+k] * b[k]; /* y += A·b */"
        ),
        "#define MAX(a, b) ((a) > (b) ? (a) : (b))\nif (!p || p->len >= 0x7fffffffUL) goto out;",
    ],
    "cpp": [
        (
            "template <typename T> auto sum(const std::vector<T>& v) -> T {\n"
            "  T s{};\n"
            "  for (auto&& x : v) s += x;\n"
            "  return s;\n"
            "}"
        ),
        "std::unique_ptr<Port> p = std::make_unique<Port>(8'080); // digit separator",
    ],
    "python": [
        (
            "def mean(values: list[float]) -> float:\n"
            "    \"\"\"Arithmetic mean.\"\"\"\n"
            "    return sum(values) / len(values)\n"
        ),
        (
            "class Harbour:\n"
            "    def __init__(self, name=None):\n"
            "        self.name = name or 'unnamed'\n"
            "\n"
            "    @property\n"
            "    def upper(self):\n"
            "        return self.name.upper()\n"
        ),
        "x = {k: v**2 for k, v in enumerate(range(10)) if v % 2 == 0}\nprint(f\"{x!r:>20}\")",
        "if __name__ == '__main__':\n\twith open('a.txt', 'rb') as f:\n\t\tdata = f.read()[::-1]\n",
    ],
    "rust": [
        (
            "fn main() {\n"
            "    let v: Vec<u8> = (0..=255).collect();\n"
            "    println!(\"{:?}\", &v[..4]);\n"
            "}"
        ),
        (
            "impl<'a> Iterator for Waves<'a> {\n"
            "    type Item = &'a str;\n"
            "    fn next(&mut self) -> Option<Self::Item> { self.inner.next() }\n"
            "}"
        ),
    ],
    "go": [
        (
            "package main\n"
            "\n"
            "import \"fmt\"\n"
            "\n"
            "func main() {\n"
            "\tch := make(chan int, 3)\n"
            "\tgo func() { ch <- 1 }()\n"
            "\tfmt.Println(<-ch)\n"
            "}\n"
        ),
    ],
    "js": [
        "const total = items.filter(x => x?.price != null).reduce((a, b) => a + b.price, 0);",
        (
            "async function load(url) {\n"
            "  const r = await fetch(`${url}?t=${Date.now()}`);\n"
            "  if (!r.ok) throw new Error('HTTP ' + r.status);\n"
            "  return r.json();\n"
            "}"
        ),
    ],
    "ts": [
        "type Tide = { readonly at: Date; height?: number } & Record<string, unknown>;",
    ],
    "java": [
        (
            "public final class Boat implements Comparable<Boat> {\n"
            "    private static final long serialVersionUID = 1L;\n"
            "    @Override public int compareTo(Boat o) { return 0; }\n"
            "}"
        ),
    ],
    "cs": [
        (
            "var names = from b in boats where b.Length > 12.5m orderby b.Name select "
            "b.Name.ToUpperInvariant();"
        ),
    ],
    "haskell": [
        (
            "quicksort :: Ord a => [a] -> [a]\n"
            "quicksort []     = []\n"
            "quicksort (p:xs) = quicksort [x | x <- xs, x < p] ++ [p] ++ quicksort [x | x "
            "<- xs, x >= p]"
        ),
    ],
    "lisp": [
        "(defun fact (n)\n  (if (<= n 1) 1 (* n (fact (1- n)))))  ; factorial",
    ],
    "ocaml": [
        "let rec fold f acc = function [] -> acc | x :: tl -> fold f (f acc x) tl",
    ],
    "sql": [
        (
            "SELECT b.name, COUNT(*) AS n\n"
            "FROM boats b LEFT JOIN trips t ON t.boat_id = b.id\n"
            "WHERE t.at >= '2024-03-01' AND b.name <> ''\n"
            "GROUP BY 1 HAVING COUNT(*) > 2 ORDER BY n DESC;"
        ),
    ],
    "sh": [
        (
            "#!/bin/sh\n"
            "set -eu\n"
            "for f in *.txt; do\n"
            "  wc -l \"$f\" | awk '{ print $1 }' >> \"${OUT:-/dev/null}\"\n"
            "done"
        ),
        "find . -name '*.o' -print0 | xargs -0 rm -f && echo \"done: $?\"",
    ],
    "make": [
        (
            "CFLAGS += -O2 -Wall\n"
            "%.o: %.c\n"
            "\t$(CC) $(CFLAGS) -c -o $@ $<\n"
            "\n"
            ".PHONY: clean\n"
            "clean:\n"
            "\trm -f *.o"
        ),
    ],
    "html": [
        (
            "<!DOCTYPE html>\n"
            "<html lang=\"fr\">\n"
            "  <body class='x-1'>\n"
            "    <p>Caf&eacute; &amp; th&#233;</p>\n"
            "    <!-- note -->\n"
            "  </body>\n"
            "</html>"
        ),
    ],
    "css": [
        ".tide > a:hover::after { content: \"→\"; margin: -0.5em auto 0; color: #0af9; }",
    ],
    "json": [
        (
            "{\"id\": 17, \"tags\": [\"a\", \"b\\u00e9\"], \"ratio\": -1.5e-3, \"ok\": true, "
            "\"none\": null}"
        ),
    ],
    "yaml": [
        (
            "models:\n"
            "  - name: demo\n"
            "    path: ./model\n"
            "    kv_bytes: 64 MiB   # a comment\n"
            "  - name: other\n"
        ),
    ],
    "toml": [
        "[package]\nname = \"tide\"\nversion = \"0.1.2\"\n\n[[bin]]\npath = 'src/main.rs'",
    ],
    "xml": [
        "<?xml version=\"1.0\"?><a xmlns:x=\"urn:x\"><x:b c='1'/><![CDATA[ < & > ]]></a>",
    ],
    "latex": [
        (
            "\\begin{equation}\n"
            "  \\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2} \\label{eq:gauss}\n"
            "\\end{equation}"
        ),
    ],
    "markdown": [
        (
            "# Title\n"
            "\n"
            "* item **bold** _it_\n"
            "  1. nested `code`\n"
            "\n"
            "| a | b |\n"
            "|---|---|\n"
            "| 1 | 2 |\n"
            "\n"
            "```c\n"
            "int x;\n"
            "```\n"
        ),
    ],
    "asm": [
        (
            "    mov     rax, QWORD PTR [rdi+rcx*8-16]\n"
            "    vfmadd231ps zmm0, zmm1, ZMMWORD PTR [rsi]\n"
            ".L3: jne .L3 # loop"
        ),
    ],
    "regex": [
        "^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\\.[a-z0-9]+)*)@(?=[^\\s]{3,})\\p{L}+$",
    ],
    "diff": [
        (
            "--- a/port.c\n"
            "+++ b/port.c\n"
            "@@ -1,3 +1,4 @@\n"
            "-\tint a;\n"
            "+\tint a = 0;\n"
            "+\tint b = 1;\n"
            " \treturn a;\n"
        ),
    ],
    "log": [
        (
            "2024-03-03T12:34:56.789012Z WARN [engine-3] step=1024 rows=17/32 "
            "took_ns=8123456 addr=0x7ffdeadbeef0"
        ),
    ],
    "proto": [
        (
            "message Token {\n"
            "  uint32 id = 1;  // vocabulary index\n"
            "  optional float logprob = 2;\n"
            "  repeated bytes parts = 3 [deprecated = true];\n"
            "}"
        ),
    ],
    "base64": [
        "R2FsZXJuZSBibG93cyBmcm9tIHRoZSBub3J0aC13ZXN0IQ==",
        "9f86d081884c7d65-9A2F-4feaa0c55ad015a3bf4f1b2b0b82",
    ],
    "url": [
        "https://example.org:8443/a/b%20c/d.html?q=wind+speed&lang=pt-PT#part-2",
        "mailto:crew@example.com?subject=Hi%21",
    ],
    "path": [
        "C:\\Users\\Ana\\Documents\\plan (2).docx",
        "../../usr/lib/x86_64-linux-gnu/libpcre2-8.so.0.11.0",
    ],
    "camel": [
        "getHTTPResponseCodeFromURLParserV2Impl",
        "snake_case_name__with__dunders__",
        "kebab-case-name--x",
        "SCREAMING_SNAKE_42",
    ],
    "chat": [
        (
            "<|im_start|>system\n"
            "You answer briefly.<|im_end|>\n"
            "<|im_start|>user\n"
            "Hi!<|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
        "<s>[INST] What is the capital of Malta? [/INST] Valletta.</s>",
    ],
}
