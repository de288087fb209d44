/*
 * Writes annotations and TMA cores as GeoJSON, for
 *     wsiseg segment a.svs --roi a.svs.rois.geojson -o results
 *
 * Names, classes, holes, several pieces and missing cores are kept; points and lines have no area
 * and are left out, so is the annotation "wsiseg tissue".  Coordinates begin where QuPath's image
 * begins, which wsiseg knows.
 *
 * QuPath: Automate > Script editor > open this file > Run.  Command line (one file an image, in
 * a folder that exists; without --image, all images of the project):
 *     QuPath script --project p.qpproj --args FOLDER export_rois.groovy
 */
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO

import static qupath.lib.scripting.QP.*

// true: every image of the project, not just the open one; images are taken as they were saved.
boolean wholeProject = false
// true: the annotation "wsiseg tissue", as corrected by hand, instead: for --tissue, not --roi.
boolean tissueInstead = false

String suffix = tissueInstead ? '.tissue.geojson' : '.rois.geojson'

def regionsOf = { hierarchy ->
    def annotations = hierarchy.getAnnotationObjects().findAll { (it.getName() == 'wsiseg tissue') == tissueInstead }
    def grid = hierarchy.getTMAGrid()
    def cores = grid == null || tissueInstead ? [] : grid.getTMACoreList()
    return (annotations + cores).findAll { it.getROI() != null && it.getROI().isArea() }
}
def fileNameOf = { uris, String name ->
    def file = uris.collect { new File(it.getPath() ?: '').getName() }.find { !it.isEmpty() }
    return (file ?: name).replaceAll(/[\\\/:*?"<>|]/, '_') + suffix
}
def write = { hierarchy, File target ->
    def regions = regionsOf(hierarchy)
    if (regions.isEmpty()) {
        println(target.getName() + ': nothing to write')
        return
    }
    PathIO.exportObjectsAsGeoJSON(target.toPath(), regions, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
    println(target.getPath() + ': ' + regions.size() + ' regions')
}

if (wholeProject) {
    def project = getProject()
    if (project == null)
        throw new IllegalStateException('No project is open; open one, or set wholeProject = false')
    File folder = args ? new File(args[0]) : FileChoosers.promptForDirectory('Folder for the regions', null)
    if (folder == null)
        return
    def openEntry = getProjectEntry()
    for (entry in project.getImageList()) {
        def hierarchy = entry == openEntry ? getCurrentHierarchy() : entry.readHierarchy()
        write(hierarchy, new File(folder, fileNameOf(entry.getURIs(), entry.getImageName())))
    }
    return
}

def server = getCurrentServer()
if (server == null)
    throw new IllegalStateException('No image is open; open a slide, or set wholeProject = true')
String name = fileNameOf(server.getURIs(), server.getMetadata().getName())
File target
if (args)
    target = new File(args[0]).isDirectory() ? new File(args[0], name) : new File(args[0])
else
    target = FileChoosers.promptToSaveFile('Regions of this image', new File(name), FileChoosers.createExtensionFilter('GeoJSON', '.geojson'))
if (target != null)
    write(getCurrentHierarchy(), target)
