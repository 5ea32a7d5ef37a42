// Package house measures the structure of the project, and holds its rules as
// tests: which package may import which, where a library's types end, and how
// large a room may grow.
package house

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Module is the path of the project's module.
const Module = "github.com/vnetd/vnetd"

// Shape is what a package looks like from outside: test files don't count.
type Shape struct {
	Path    string // below Module
	Files   int
	Lines   int
	Floors  int    // files on the longest chain of files that use one another
	Type    string // the type with most methods, "" if there are none
	Methods int    // of Type
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir, Export string
	Imports, GoFiles        []string
	Standard                bool
}

// list runs go list in dir, which also compiles: types are read from what the
// compiler exported. It compiles as the build does, which may have done it already.
func list(dir string, args ...string) ([]listed, error) {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Export,Imports,GoFiles,Standard"}, args...)...)
	cmd.Dir, cmd.Stderr, cmd.Env = dir, os.Stderr, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}

// Measure returns the shape of every package of the checkout in dir that has
// code of its own, in order of path.
func Measure(dir string) ([]Shape, error) {
	all, err := list(dir, "-export", "-deps", "./...")
	if err != nil {
		return nil, err
	}
	exports := make(map[string]string)
	for _, p := range all {
		exports[p.ImportPath] = p.Export
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", lookup)
	var shapes []Shape
	for _, p := range all {
		path, ours := strings.CutPrefix(p.ImportPath, Module+"/")
		if !ours {
			continue
		}
		s, err := measure(fset, imports, p)
		if err != nil {
			return nil, err
		}
		s.Path = path
		shapes = append(shapes, s)
	}
	slices.SortFunc(shapes, func(a, b Shape) int { return cmp.Compare(a.Path, b.Path) })
	return shapes, nil
}

// measure reads and type-checks one package.
func measure(fset *token.FileSet, imports types.Importer, p listed) (Shape, error) {
	var files []*ast.File
	s := Shape{Files: len(p.GoFiles)}
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return s, err
		}
		files = append(files, f)
		s.Lines += fset.File(f.Pos()).LineCount()
	}
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	pkg, err := (&types.Config{Importer: imports}).Check(p.ImportPath, fset, files, info)
	if err != nil {
		return s, err
	}
	s.Type, s.Methods = mostMethods(pkg)
	s.Floors = floors(uses(fset, pkg, info))
	return s, nil
}

// mostMethods finds the type that declares most methods, of any receiver.
func mostMethods(pkg *types.Package) (name string, methods int) {
	for _, n := range pkg.Scope().Names() {
		typ, ok := pkg.Scope().Lookup(n).(*types.TypeName)
		if !ok {
			continue
		}
		if named, ok := typ.Type().(*types.Named); ok && named.NumMethods() > methods {
			name, methods = n, named.NumMethods()
		}
	}
	return name, methods
}

// uses returns, for each file of a package, the other files whose package-level
// declarations, fields and methods it uses.
func uses(fset *token.FileSet, pkg *types.Package, info *types.Info) map[string]map[string]bool {
	used := make(map[string]map[string]bool)
	for id, obj := range info.Uses {
		if obj.Pkg() != pkg {
			continue
		}
		from, to := fset.File(id.Pos()).Name(), fset.File(obj.Pos()).Name()
		if from == to {
			continue
		}
		if used[from] == nil {
			used[from] = make(map[string]bool)
		}
		used[from][to] = true
	}
	return used
}

// floors counts the files on the longest chain in which each uses the next, from
// the files that fewest others use downwards; what uses a file above it in the
// same chain, so that the two go round in a circle, is left out.
func floors(used map[string]map[string]bool) int {
	users := make(map[string]int)
	for from, tos := range used {
		users[from] += 0
		for to := range tos {
			users[to]++
		}
	}
	byUsers := slices.SortedFunc(maps.Keys(users), func(a, b string) int {
		return cmp.Or(cmp.Compare(users[a], users[b]), cmp.Compare(a, b))
	})
	const under = -1 // on the chain that is being followed
	height := make(map[string]int)
	var climb func(file string) int
	climb = func(file string) int {
		if height[file] != 0 {
			return max(height[file], 0)
		}
		height[file] = under
		highest := 0
		for _, to := range byUsers {
			if used[file][to] {
				highest = max(highest, climb(to))
			}
		}
		height[file] = highest + 1
		return height[file]
	}
	top := 1
	for _, file := range byUsers {
		top = max(top, climb(file))
	}
	return top
}
