/*
 * Brings the results of many slides into the images of the open project, by file name.
 *
 * The folder may hold runs (a.svs.wsiseg, at any depth) or files of
 *     wsiseg export RESULTS --format geojson --to FOLDER/
 * (a.svs.geojson.gz, or a.svs-001.geojson.gz and so on after --split).
 *
 * QuPath: open the project, Automate > Script editor > open this file > Run (not "Run for
 * project": it goes through the images itself).  Images are saved.  Command line:
 *     QuPath script --project p.qpproj --image a.svs --args FOLDER import_folder.groovy
 *
 * Only wsiseg's own objects are ever removed: detections with the measurement "wsiseg: Cell id".
 * What had no match is listed at the end.  Research use only.
 */
import groovy.json.JsonSlurper
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO

import static qupath.lib.scripting.QP.*

// true: nuclei of an earlier import give way; false: they stay, and known ones are not repeated.
boolean replaceEarlier = true

def project = getProject()
if (project == null)
    throw new IllegalStateException('No project is open; open one that holds the slides')
File top = args ? new File(args[0]) : FileChoosers.promptForDirectory('Folder with results', null)
if (top == null)
    return
if (!top.isDirectory())
    throw new IllegalArgumentException(top.getPath() + ' is not a folder')

// Slide name -> where it was found (a run, or the folder of flat files) -> its files.
def found = new TreeMap<String, Map<File, List<File>>>()
def keep = { String name, File place, File file ->
    found.computeIfAbsent(name, { k -> new LinkedHashMap<File, List<File>>() })
            .computeIfAbsent(place, { k -> new ArrayList<File>() })
            .add(file)
}
def look
look = { File folder ->
    for (File file : folder.listFiles().sort { it.getName() }) {
        def flat = file.getName() =~ /^(.+?)(-\d{3,})?\.geojson(\.gz)?$/
        if (file.isDirectory() && file.getName().endsWith('.wsiseg')) {
            File cells = new File(file, 'cells.geojson.gz')
            if (cells.isFile())
                keep(file.getName() - ~/\.wsiseg$/, file, cells)
        } else if (file.isDirectory()) {
            look(file)
        } else if (flat.matches()) {
            keep(flat.group(1), folder, file)
        }
    }
}
if (top.getName().endsWith('.wsiseg'))
    look(top.getAbsoluteFile().getParentFile())
else
    look(top)

def sizeProblem = { File place, server ->
    File record = new File(place, 'run.json')
    if (!record.isFile())
        return null
    def bounds = new JsonSlurper().parse(record, 'UTF-8').slide.bounds
    // The run's coordinates begin at the corner of the slide's bounds, where QuPath crops it to.
    if (server.getWidth() == bounds[2] && server.getHeight() == bounds[3])
        return null
    return 'the image has ' + server.getWidth() + ' x ' + server.getHeight() + ' px, the slide of the run ' + bounds[2] + ' x ' + bounds[3]
}

def used = new TreeSet<String>()
def problems = []
def openEntry = getProjectEntry()
for (entry in project.getImageList()) {
    def names = (entry.getURIs().collect { new File(it.getPath() ?: '').getName() } + entry.getImageName()).unique()
    def matching = names.findAll { found.containsKey(it) }
    if (matching.isEmpty()) {
        problems << (entry.getImageName() + ': no results')
        continue
    }
    def name = matching[0]
    used.add(name)
    if (found[name].size() > 1) {
        problems << (entry.getImageName() + ': results at several places, none taken: ' + found[name].keySet().join(', '))
        continue
    }
    def place = found[name].keySet().first()
    // The open image is changed where it is shown; another copy of its data would be lost.
    boolean isOpen = entry == openEntry
    def imageData = isOpen ? getCurrentImageData() : entry.readImageData()
    try {
        def problem = sizeProblem(place, imageData.getServer())
        if (problem != null) {
            problems << (entry.getImageName() + ': ' + problem)
            continue
        }
        def hierarchy = imageData.getHierarchy()
        def objects = found[name][place].collectMany { PathIO.readObjects(it.toPath()) }
        def earlier = hierarchy.getDetectionObjects().findAll { it.getMeasurementList().containsKey('wsiseg: Cell id') }
        if (replaceEarlier) {
            hierarchy.removeObjects(earlier, true)
        } else {
            def known = earlier.collect { it.getID() } as Set
            objects = objects.findAll { !known.contains(it.getID()) }
        }
        hierarchy.addObjects(objects)
        entry.saveImageData(imageData)
        println(entry.getImageName() + ': ' + objects.size() + ' nuclei added')
    } finally {
        if (!isOpen)
            imageData.getServer().close()
    }
}
project.syncChanges()

println('')
println(problems.isEmpty() ? 'Every image had results.' : 'Without new nuclei:')
problems.each { println('  ' + it) }
def unused = found.keySet() - used
if (!unused.isEmpty()) {
    println('Results without an image in the project:')
    unused.each { println('  ' + it) }
}
